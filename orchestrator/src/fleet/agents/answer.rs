//! Answers that came through a pods/proxy: read within bounds, and refusals by who refuses.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use floater::wire::{self, MAX_LINE, Unsealed};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::super::api::{self, Failure};

/// The longest whole answer, bytes: the tables of a gateway of thousands of clusters are a few MiB.
const MAX_ANSWER: usize = 64 << 20;

/// Why a floater did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its clock differs from the request's time: that clock, milliseconds since 1970.
    Clock {
        now_ms: u64,
    },
    Other(String),
}

/// Why an answer is not believed.
pub(super) fn unsigned(why: Unsealed) -> String {
    match why {
        Unsealed::Otherwise => {
            "its answer is signed by another floater, with another run's key or for another request"
        }
        Unsealed::Not => "its answer is not signed: what answers there is no floater of this run",
    }
    .to_owned()
}

/// Reads a whole answer: status and body.
pub(super) async fn read(
    response: Response<Body>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let status = response.status();
    let mut body = response.into_body();
    let reading = async {
        let mut content = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "its answer broke off".to_owned())?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if content.len() + data.len() > MAX_ANSWER {
                return Err(format!(
                    "its answer is larger than {} MiB",
                    MAX_ANSWER >> 20
                ));
            }
            content.extend_from_slice(&data);
        }
        Ok((status, content.freeze()))
    };
    tokio::time::timeout(limit, reading)
        .await
        .unwrap_or_else(|_| Err("its answer began and did not end in time".to_owned()))
}

/// Who refused and why: the API server in the words of a Status, the floater in words that it has signed, or somebody
/// whose words count for nothing.
pub(super) fn refusal(status: StatusCode, content: &[u8], is_signed: bool) -> Refusal {
    #[derive(serde::Deserialize)]
    struct Status {
        kind: String,
        #[serde(default)]
        message: String,
    }
    #[derive(serde::Deserialize)]
    struct Refused {
        error: String,
        #[serde(flatten)]
        refusal: Option<wire::Refusal>,
    }
    if let Ok(said) = serde_json::from_slice::<Status>(content)
        && said.kind == "Status"
        && !is_signed
    {
        let failure = Failure::Status {
            code: status.as_u16(),
            message: api::words(&said.message),
        };
        return Refusal::Other(format!("its API server cannot pass on to it: {failure}"));
    }
    let code = status.as_u16();
    let why = match serde_json::from_slice::<Refused>(content) {
        Ok(Refused {
            refusal: Some(wire::Refusal::Clock { now_ms }),
            ..
        }) if is_signed => return Refusal::Clock { now_ms },
        Ok(Refused { error, .. }) if is_signed => {
            format!("it refuses ({code}): {}", api::words(&error))
        }
        Ok(Refused {
            refusal: Some(wire::Refusal::Signature),
            ..
        }) => "it does not accept the run key: another run's or another node's floater".to_owned(),
        Ok(Refused {
            refusal: Some(wire::Refusal::Version),
            ..
        }) => format!(
            "it does not speak version {} of the protocol",
            wire::VERSION
        ),
        _ => format!(
            "what answers there (HTTP {code}) is no floater of this run that speaks version {} of the protocol",
            wire::VERSION
        ),
    };
    Refusal::Other(why)
}

/// The lines of a streamed answer, one at a time, never more than one held.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    searched: usize,
    silence: Duration,
}

impl Lines {
    /// Lines of which the next one may take no longer than `silence`.
    pub(super) fn new(body: Body, silence: Duration) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            silence,
        }
    }

    /// The next line without its end.
    pub(super) async fn next(&mut self) -> Result<Bytes, String> {
        let silence = self.silence;
        tokio::time::timeout(silence, self.read())
            .await
            .unwrap_or_else(|_| Err(format!("it said nothing for {} s", silence.as_secs())))
    }

    async fn read(&mut self) -> Result<Bytes, String> {
        loop {
            let fresh = &self.buffer[self.searched..];
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err(format!(
                    "a line of its results is longer than {MAX_LINE} bytes"
                ));
            }
            match self.body.frame().await {
                None => return Err("its results ended before it was done".to_owned()),
                Some(Err(_)) => return Err("its results broke off".to_owned()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, content: &str, is_signed: bool) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        match refusal(status, content.as_bytes(), is_signed) {
            Refusal::Other(why) => why,
            Refusal::Clock { now_ms } => format!("clock {now_ms}"),
        }
    }

    #[test]
    fn a_refusal_names_who_refused() {
        let status = r#"{"kind":"Status","message":"error trying to reach service: dial tcp: connect: connection refused"}"#;
        assert!(
            said(502, status, false)
                .starts_with("its API server cannot pass on to it: error trying to reach service")
        );
        let key = r#"{"refusal":"signature","error":"x"}"#;
        assert!(said(401, key, false).contains("run key"));
        let version = r#"{"refusal":"version","error":"x"}"#;
        assert!(said(400, version, false).contains("version 2"));
        let busy = r#"{"error":"as many plans as may run"}"#;
        assert_eq!(
            said(429, busy, true),
            "it refuses (429): as many plans as may run"
        );
    }

    #[test]
    fn the_words_of_strangers_are_not_repeated_and_their_clocks_not_set_by() {
        let clock = r#"{"refusal":"clock","now_ms":7,"error":"evil"}"#;
        assert_eq!(said(401, clock, true), "clock 7");
        for (content, is_signed) in [
            (clock, false),
            ("evil", false),
            ("evil", true),
            (r#"{"error":"evil"}"#, false),
            (r#"{"refusal":"signature","error":"evil"}"#, false),
        ] {
            let said = said(401, content, is_signed);
            assert!(!said.contains("evil") && !said.contains('7'), "{said}");
        }
    }

    #[tokio::test]
    async fn a_line_is_bounded_whatever_comes() {
        let body = |text: &[u8]| Body::from(text.to_vec());
        let mut lines = Lines::new(body(b"a\n\nbc\nrest"), Duration::from_secs(5));
        for line in [&b"a"[..], b"", b"bc"] {
            assert_eq!(lines.next().await.as_deref(), Ok(line));
        }
        assert!(lines.next().await.is_err_and(|why| why.contains("ended")));
        let long = vec![b'x'; MAX_LINE + 1];
        let mut lines = Lines::new(body(&long), Duration::from_secs(5));
        assert!(lines.next().await.is_err_and(|why| why.contains("longer")));
    }
}
