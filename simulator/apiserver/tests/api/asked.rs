//! Requests of an administrator, within the process.

use std::sync::Arc;

use apiserver::{ApiCluster, NoPods};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::tls;

/// A cluster in the process, asked by its administrator.
pub(crate) struct Asked(pub(crate) Arc<ApiCluster>);

/// An answer: its code and its body, JSON or text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn new() -> Self {
        Self(tls::cluster(Arc::new(NoPods)))
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let bearer = format!("Bearer {}", tls::TOKEN);
        let own = [&[("authorization", bearer.as_str())], headers].concat();
        self.send_as(method, path, &own, body).await
    }

    /// A request of whoever its headers say.
    pub(crate) async fn send_as(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(bytes::Bytes::from(body.to_owned()));
        let response = self.0.handle(request.body(body).unwrap()).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Answer { code, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send("POST", path, &json, &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media = format!("application/{kind}");
        self.send(
            "PATCH",
            path,
            &[("content-type", &media)],
            &body.to_string(),
        )
        .await
    }
}
