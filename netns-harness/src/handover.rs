//! Descriptors handed to another process over a Unix socket (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors in one message.
const MAX: usize = 4;

/// Sends one byte with descriptors.
pub fn send(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&[0])],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == 1 {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one byte with the descriptors that came with it.
#[expect(unsafe_code, reason = "received descriptors arrive as numbers")]
pub fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; MAX]);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed these descriptors for this message; nobody else owns them.
            descriptors.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    if message.bytes == 1 {
        Ok(descriptors)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_descriptor_works_on_the_other_side() {
        let (left, right) = UnixStream::pair().expect("pair");
        let (mut inner, given) = UnixStream::pair().expect("pair");
        send(&left, &[given.as_fd()]).expect("send");
        drop(given);
        let mut received = receive(&right).expect("receive");
        assert_eq!(received.len(), 1);
        let mut far = UnixStream::from(received.remove(0));
        far.write_all(b"x").expect("write");
        let mut byte = [0];
        inner.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
        send(&left, &[]).expect("send");
        assert!(receive(&right).expect("receive").is_empty());
    }
}
