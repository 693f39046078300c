//! Why there was no answer, in words: what a server says made printable, errors of the libraries translated.

use datapath::printable::Printable;
use rustls::{CertificateError, OtherError};

use super::super::budget::Spent;

use super::Failure;
use crate::descriptors;
use crate::kubeconfig::TlsRule;

/// The most characters of what a server says.
const LONGEST: usize = 300;

/// A server's words, short and safe to print.
pub(crate) fn words(message: &str) -> String {
    Printable::bounded(message.trim(), LONGEST)
        .as_str()
        .to_owned()
}

/// Why there was no answer.
pub(super) fn transport_words(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut deepest = error;
    loop {
        if let Some(spent) = deepest.downcast_ref::<Spent>() {
            return Failure::Spent(spent.clone());
        }
        if let Some(tls) = deepest.downcast_ref::<rustls::Error>() {
            return Failure::Transport(format!("API server unreachable: TLS: {}", tls_words(tls)));
        }
        // What an error of the system wraps is not its source.
        let inside = deepest
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .map(|inside| inside as &(dyn std::error::Error + 'static));
        match inside.or_else(|| deepest.source()) {
            Some(source) => deepest = source,
            None => break,
        }
    }
    let io = deepest.downcast_ref::<std::io::Error>();
    if let Some(shortage) = io.and_then(descriptors::shortage) {
        return Failure::Transport(shortage.to_owned());
    }
    let why = match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "no connection in time".to_owned(),
        Some(std::io::ErrorKind::ConnectionReset) => "it closed the connection".to_owned(),
        Some(std::io::ErrorKind::UnexpectedEof) => "it closed the connection early".to_owned(),
        _ => words(&deepest.to_string()),
    };
    Failure::Transport(format!("API server unreachable: {why}"))
}

/// The rule that a server's side of TLS breaks.
fn tls_words(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let rule = match error {
        Tls::InvalidCertificate(certificate) => return certificate_words(certificate),
        Tls::InvalidMessage(_) => "what answers at that port does not speak TLS",
        Tls::AlertReceived(alert) => {
            return format!(
                "the server refuses with the alert {}",
                words(&format!("{alert:?}"))
            );
        }
        Tls::PeerIncompatible(_) => {
            "the server has no version, cipher or signature scheme in common with this program"
        }
        Tls::PeerMisbehaved(_) => "the server breaks the protocol",
        Tls::NoCertificatesPresented => "the server presents no certificate",
        other => return words(&other.to_string()),
    };
    rule.to_owned()
}

fn certificate_words(error: &CertificateError) -> String {
    let rule = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet (is this machine's clock right?)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for other names than the one it is asked by (tls-server-name names another)"
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate is not signed by the certificate authority of the kubeconfig"
        }
        CertificateError::BadSignature => {
            "the signature of the server's certificate is not of the certificate authority of the kubeconfig"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not meant for servers (extended key usage)"
        }
        CertificateError::BadEncoding => "the server's certificate cannot be parsed",
        CertificateError::UnhandledCriticalExtension => {
            "the server's certificate has a critical extension that is not known here"
        }
        CertificateError::Revoked => "the server's certificate is revoked",
        CertificateError::Other(OtherError(inside)) if inside.is::<TlsRule>() => {
            return words(&inside.to_string());
        }
        other => {
            let text = format!("{other:?}");
            if text.contains("UnsupportedSignatureAlgorithm") {
                return "the server's certificate is signed by an algorithm that is not supported here".to_owned();
            }
            if text.contains("UnsupportedCertVersion") {
                return "an intermediate certificate of the server is not of X.509 version 3"
                    .to_owned();
            }
            return format!("the server's certificate is refused: {}", words(&text));
        }
    };
    rule.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_rule_and_not_a_type() {
        let wrapped = |inner: rustls::Error| std::io::Error::other(inner);
        for (error, expected) in [
            (
                wrapped(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer,
                )),
                "API server unreachable: TLS: the server's certificate is not signed by the certificate authority of the kubeconfig",
            ),
            (
                wrapped(rustls::Error::InvalidCertificate(CertificateError::Expired)),
                "API server unreachable: TLS: the server's certificate has expired",
            ),
            (
                wrapped(rustls::Error::InvalidCertificate(CertificateError::Other(
                    OtherError(std::sync::Arc::new(TlsRule("the rule".to_owned()))),
                ))),
                "API server unreachable: TLS: the rule",
            ),
            (
                std::io::ErrorKind::ConnectionRefused.into(),
                "API server unreachable: connection refused",
            ),
            (
                std::io::Error::from_raw_os_error(24),
                "this program has used up its file descriptors (raise ulimit -Hn); the cluster is not at fault",
            ),
        ] {
            assert_eq!(
                transport_words(&error),
                Failure::Transport(expected.to_owned())
            );
        }
        let spent = std::io::Error::other(Spent::Bytes);
        assert_eq!(transport_words(&spent), Failure::Spent(Spent::Bytes));
    }

    #[test]
    fn what_a_server_says_is_one_safe_line() {
        assert_eq!(words(" a\u{1b}[2J\nb\u{202e} "), "a\u{fffd}[2J b\u{fffd}");
        assert_eq!(words(&"x".repeat(1000)).chars().count(), LONGEST);
    }
}
