//! Tokens by which a member's programs reach the control plane.

use datapath::rbac::{self, TOKEN_LIFETIME};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Settings;
use super::cluster::{Cluster, Server};
use super::objects::{Object, is_ours};
use super::wanted::{self, Token};
use crate::Error;

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: String,
    expiration_timestamp: String,
}

/// The Secrets of a member's programs, without tokens: what they are planned with.
pub(super) fn planned(settings: &Settings, member: &str, server: &Server) -> Vec<Object> {
    let secret = |name| wanted::secret(settings, member, name, server, &Token::default());
    vec![secret(rbac::AGENT_SECRET), secret(rbac::CONTROLLER_SECRET)]
}

/// The Secrets of a member's programs that are to be written, with new tokens; those that will do for long are left as they are.
pub(super) async fn secrets(
    settings: &Settings,
    member: &Cluster,
    control_plane: &Cluster,
    server: &Server,
) -> Result<Vec<Object>, Error> {
    let mut objects = Vec::new();
    for (name, account) in [
        (rbac::AGENT_SECRET, rbac::agent_account(&member.name)),
        (
            rbac::CONTROLLER_SECRET,
            rbac::controller_account(&member.name),
        ),
    ] {
        let planned = wanted::secret(settings, &member.name, name, server, &Token::default());
        let held = member.get(&planned.path()).await;
        let held = held.map_err(|failure| Error::Missing {
            what: format!("{} of {}", planned.words(), member.name),
            why: failure.to_string(),
        })?;
        if held.is_some_and(|held| lasts(&held, &planned.value)) {
            continue;
        }
        let token = token(control_plane, &settings.namespace, &account).await?;
        objects.push(wanted::secret(settings, &member.name, name, server, &token));
    }
    Ok(objects)
}

/// Whether a Secret leads to the same server and its token lasts for half of a new one's time at least.
fn lasts(held: &Value, planned: &Value) -> bool {
    let expires = held["metadata"]["annotations"][rbac::TOKEN_EXPIRES].as_str();
    let expires = expires.and_then(|text| text.parse::<Timestamp>().ok());
    let half = SignedDuration::from_secs(TOKEN_LIFETIME / 2);
    is_ours(held)
        && held["data"]["kubeconfig"] == planned["data"]["kubeconfig"]
        && expires.is_some_and(|at| at > Timestamp::now() + half)
}

async fn token(cluster: &Cluster, namespace: &str, account: &str) -> Result<Token, Error> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_LIFETIME},
    });
    let answer: Result<Answer, _> = cluster.api.ask(&path, &question).await;
    let answer = answer.map_err(|failure| Error::Missing {
        what: format!("a token of {namespace}/{account} in {}", cluster.name),
        why: failure.to_string(),
    })?;
    Ok(Token {
        token: answer.status.token,
        expires: answer.status.expiration_timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL};

    #[test]
    fn a_token_is_kept_while_it_lasts_and_leads_to_the_same_server() {
        let secret = |days: i64, kubeconfig: &str| {
            let at = Timestamp::now() + SignedDuration::from_hours(24 * days);
            json!({
                "metadata": {
                    "labels": {MANAGED_BY_LABEL: MANAGED_BY},
                    "annotations": {rbac::TOKEN_EXPIRES: at.to_string()},
                },
                "data": {"kubeconfig": kubeconfig},
            })
        };
        let wanted = secret(0, "same");
        assert!(lasts(&secret(20, "same"), &wanted));
        assert!(
            !lasts(&secret(10, "same"), &wanted),
            "it is renewed before it ends"
        );
        assert!(
            !lasts(&secret(20, "other"), &wanted),
            "the server has moved"
        );
        assert!(
            !lasts(&json!({"data": {"kubeconfig": "same"}}), &wanted),
            "it is not ours"
        );
    }
}
