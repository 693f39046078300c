//! What RBAC cannot say: that the programs of a member change its own ClusterNodes and no others. RBAC knows no fields, and names that are to be
//! made are not known before; a ValidatingAdmissionPolicy (Kubernetes 1.30) compares an object's `spec.clusterName` with the account that asks.
//!
//! It goes by the cluster and not by the node: a member's agents are no pods of the control plane, so nothing in their token says on which node they are.

use serde_json::{Value, json};

use super::{agent_account, controller_account};
use crate::api::{GROUP, VERSION};

/// The name of the policy and of its binding.
pub const POLICY: &str = "clusterlink-own-nodes";

/// The policy and its binding, without labels; `namespace` is where the members' service accounts are.
#[must_use]
pub fn own_nodes(namespace: &str) -> [Value; 2] {
    let (agent, controller) = (agent_account(""), controller_account(""));
    let of = |account: &str| {
        format!(
            "request.userInfo.username.startsWith('system:serviceaccount:{namespace}:{account}')"
        )
    };
    let cluster = format!(
        "variables.account.startsWith('{agent}') ? variables.account.substring({}) : variables.account.substring({})",
        agent.len(),
        controller.len()
    );
    let policy = json!({
        "metadata": {"name": POLICY},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [GROUP], "apiVersions": [VERSION],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["clusternodes", "clusternodes/status"],
            }]},
            "matchConditions": [{
                "name": "programs-of-members",
                "expression": format!("{} || {}", of(&agent), of(&controller)),
            }],
            "variables": [
                {"name": "account", "expression": "request.userInfo.username.split(':')[3]"},
                {"name": "cluster", "expression": cluster},
            ],
            "validations": [
                {
                    "expression": "request.operation == 'CREATE' || !has(oldObject.spec) || !has(oldObject.spec.clusterName) || oldObject.spec.clusterName == '' || oldObject.spec.clusterName == variables.cluster",
                    "message": "a ClusterNode of another cluster is not changed",
                    "reason": "Forbidden",
                },
                {
                    "expression": "request.operation == 'DELETE' || (has(object.spec) && has(object.spec.clusterName) && object.spec.clusterName == variables.cluster)",
                    "message": "no ClusterNode is made another cluster's",
                    "reason": "Forbidden",
                },
            ],
        },
    });
    let binding = json!({
        "metadata": {"name": POLICY},
        "spec": {"policyName": POLICY, "validationActions": ["Deny"]},
    });
    [policy, binding]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_reads_a_cluster_s_name_from_the_account_that_rbac_gives_it() {
        let [policy, binding] = own_nodes("kosmos-system");
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        let condition = policy["spec"]["matchConditions"][0]["expression"].to_string();
        for account in [agent_account("west"), controller_account("west")] {
            let (prefix, name) = account.split_at(account.len() - "west".len());
            assert_eq!(name, "west");
            assert!(
                condition.contains(&format!("kosmos-system:{prefix}')")),
                "{condition}"
            );
            let cluster = policy["spec"]["variables"][1]["expression"].to_string();
            assert!(
                cluster.contains(&format!("substring({})", prefix.len())),
                "{cluster}"
            );
        }
    }
}
