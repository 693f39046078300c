//! The tokens by which a member cluster's programs reach the control plane: renewed by the leading controller, in the Secrets that they are
//! mounted from. No token is ever logged.

use std::time::Duration;

use futures::future::join;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::{debug, info, warn};

use super::leader::Leading;
use super::objects::MANAGER;
use super::{Cluster, Common, PATIENCE, metrics};
use crate::control::tokens::{Due, Renewal};
use crate::moment;
use crate::printable::Printable;
use crate::rbac::{
    AGENT_SECRET, CONTROLLER_SECRET, TOKEN_EXPIRES, TOKEN_KEY, TOKEN_LIFETIME, agent_account,
    controller_account,
};

/// How often a cluster is asked for a Secret that it does not have: one that was not joined by these means has none.
const ABSENT: Duration = Duration::from_secs(300);

/// Keeps both tokens while this replica leads. Ends never.
pub(super) async fn keep(cluster: &Cluster, common: &Common, leading: &Leading) {
    let agent = agent_account(&cluster.name);
    let controller = controller_account(&cluster.name);
    join(
        keep_one(cluster, common, leading.clone(), AGENT_SECRET, &agent),
        keep_one(
            cluster,
            common,
            leading.clone(),
            CONTROLLER_SECRET,
            &controller,
        ),
    )
    .await;
}

async fn keep_one(
    cluster: &Cluster,
    common: &Common,
    mut leading: Leading,
    name: &'static str,
    account: &str,
) {
    let secrets: Api<Secret> = Api::namespaced(cluster.member.clone(), &common.namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.control.clone(), &common.namespace);
    let mut renewal = Renewal::default();
    loop {
        if !leading.is_now() {
            leading.turned().await;
            continue;
        }
        let looked = leading
            .clone()
            .guard(look(&secrets, &accounts, name, account, &mut renewal))
            .await;
        let wait = match looked {
            None => continue,
            Some(Ok(Looked { wait, expires })) => {
                if let Some(expires) = expires {
                    let labels = [("secret", name)];
                    common
                        .metrics
                        .set(&metrics::TOKEN_EXPIRY, &labels, expires as f64);
                }
                wait
            }
            Some(Err(why)) => {
                let why = Printable::bounded(&why, 500);
                warn!(
                    secret = name,
                    account,
                    why = why.as_str(),
                    "the token cannot be renewed; the present one counts until it expires"
                );
                renewal.failed()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = leading.turned() => {}
        }
    }
}

struct Looked {
    /// Until the next look.
    wait: Duration,
    /// When the token expires, seconds since 1970; none where there is none.
    expires: Option<i64>,
}

/// Looks at one Secret, and renews its token where that is due.
async fn look(
    secrets: &Api<Secret>,
    accounts: &Api<ServiceAccount>,
    name: &str,
    account: &str,
    renewal: &mut Renewal,
) -> Result<Looked, String> {
    let Some(secret) = asked(secrets.get_opt(name)).await? else {
        debug!(secret = name, "there is no such Secret; no token is kept");
        return Ok(Looked {
            wait: ABSENT,
            expires: None,
        });
    };
    let annotations = secret.metadata.annotations.as_ref();
    let expires = annotations.and_then(|all| moment::read(all.get(TOKEN_EXPIRES)?));
    if let Due::In(wait) = renewal.due(expires, moment::seconds()) {
        return Ok(Looked { wait, expires });
    }
    let request = TokenRequest {
        spec: TokenRequestSpec {
            // Those of the API server itself.
            audiences: Vec::new(),
            expiration_seconds: Some(TOKEN_LIFETIME),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let answer = asked(accounts.create_token_request(account, &params, &request)).await?;
    let status = answer.status.ok_or("the answer has no token")?;
    let expires = status.expiration_timestamp.0.as_second();
    let patch = json!({
        "metadata": {
            // One that was replaced meanwhile is looked at again.
            "resourceVersion": secret.metadata.resource_version,
            "annotations": {TOKEN_EXPIRES: moment::text(expires)},
        },
        "data": {TOKEN_KEY: ByteString(status.token.into_bytes())},
    });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    asked(secrets.patch(name, &params, &Patch::Merge(&patch))).await?;
    info!(
        secret = name,
        account,
        expires = moment::text(expires),
        "renewed the token"
    );
    Ok(Looked {
        wait: renewal.renewed(expires, moment::seconds()),
        expires: Some(expires),
    })
}

async fn asked<T>(asking: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} ({})", status.message, status.code)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
