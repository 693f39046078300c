//! Writing an object as it is to be, whoever made it before.

use http::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Api, Failure, encoded, parse, request, with_json};

/// Who writes, in `managedFields`.
const MANAGER: &str = "floaterctl";

/// Whether a write is one, or only a question what would come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// The server checks everything, rights and admission included, and changes nothing.
    Try,
    /// For good.
    Do,
}

impl Api {
    /// Applies an object (server-side apply), and returns what it is then. Fields that somebody else manages are a conflict.
    pub(crate) async fn apply(
        &self,
        path: &str,
        object: &Value,
        write: Write,
    ) -> Result<Value, Failure> {
        let manager = encoded(MANAGER);
        let path = match write {
            Write::Try => format!("{path}?fieldManager={manager}&dryRun=All"),
            Write::Do => format!("{path}?fieldManager={manager}"),
        };
        let body = object.to_string().into_bytes();
        let patch = || {
            let mut request = request(Method::PATCH, &path, body.clone())?;
            request.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/apply-patch+yaml"),
            );
            Ok(request)
        };
        // Applying twice is applying once.
        parse(self.insist(patch, &[429, 500, 503]).await?).await
    }

    /// Merges a patch into an object (RFC 7396), and returns what it is then.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Failure> {
        let body = patch.to_string().into_bytes();
        let patch = || {
            let mut request = request(Method::PATCH, path, body.clone())?;
            request.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/merge-patch+json"),
            );
            Ok(request)
        };
        parse(self.insist(patch, &[429]).await?).await
    }

    /// Replaces an object.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<(), Failure> {
        let body = object.to_string().into_bytes();
        let put = || with_json(request(Method::PUT, path, body.clone())?);
        self.insist(put, &[429]).await.map(drop)
    }

    /// Posts something that is answered and not kept, such as a request for a token.
    pub(crate) async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        question: &Value,
    ) -> Result<T, Failure> {
        let body = question.to_string().into_bytes();
        let post = || -> Result<Request<Vec<u8>>, Failure> {
            with_json(request(Method::POST, path, body.clone())?)
        };
        parse(self.insist(post, &[429, 500, 503]).await?).await
    }
}
