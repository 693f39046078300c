//! Refusals of the API.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use serde_json::json;

use super::super::check::Fault;
use super::super::nonces::Known;
use super::{Body, Whole};
use crate::wire::{MAX_BODY, Refusal};

/// How long what nobody wants to read is still taken in.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request that is not obeyed, and why.
pub(super) struct Refused {
    status: StatusCode,
    content: serde_json::Value,
    pub(super) allow: Option<HeaderValue>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, why: &str) -> Self {
        Self {
            status,
            content: json!({ "error": why }),
            allow: None,
        }
    }

    /// For want of room: another time it may be obeyed.
    pub(super) fn busy(why: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, why)
    }

    pub(super) fn plan(fault: &Fault) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            content: json!(fault),
            allow: None,
        }
    }

    /// As an answer to be signed.
    pub(super) fn into_answer(self) -> Whole {
        let mut whole = super::json(self.status, &self.content);
        whole.allow = self.allow;
        whole
    }

    /// As an answer to somebody who has proved nothing.
    pub(super) fn into_response(self) -> Response<Body> {
        self.into_answer().into_response()
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let mut content = json!(refusal);
        content["error"] = json!(refusal.to_string());
        Self {
            status: if refusal == Refusal::Version {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::UNAUTHORIZED
            },
            content,
            allow: None,
        }
    }
}

impl From<Known> for Refused {
    fn from(known: Known) -> Self {
        match known {
            Known::Before => Refusal::Replayed.into(),
            Known::Full => Self::busy("more requests than can be remembered came within a minute"),
        }
    }
}

/// Takes in what a sender that was refused still sends, beside the answer, within limits and without keeping it.
pub(super) fn discard(mut body: Incoming) {
    let reading = async move {
        let mut left = 2 * MAX_BODY;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.into_data().map_or(0, |data| data.len() as u64);
            left = left.saturating_sub(length);
            if left == 0 {
                return;
            }
        }
    };
    tokio::spawn(async move { tokio::time::timeout(PATIENCE, reading).await });
}
