//! The tokens of a member's programs, which its controller renews, and which are files that are read again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datapath::rbac::{
    self, AGENT_SECRET, CONTROLLER_SECRET, TOKEN_EXPIRES, agent_account, controller_account,
};
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, node};
use super::process::Program;
use super::world::{CONTROL, NAMESPACE, World};

/// A Secret as `join` makes it.
fn secret(world: &World, name: &str, expires: &str) {
    let object = json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {TOKEN_EXPIRES: expires, "kept": "yes"}},
        "type": "Opaque",
        "data": {"token": STANDARD.encode("former"), "kubeconfig": STANDARD.encode("kept")},
    });
    world
        .store("a")
        .create(Resource::SECRETS, Some(NAMESPACE), object)
        .unwrap();
}

fn data(secret: &Value, key: &str) -> String {
    let bytes = STANDARD
        .decode(secret["data"][key].as_str().unwrap())
        .unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_controller_renews_what_has_lived_half_of_its_life() {
    let world = World::new(&["a"]);
    cluster(&world, "a", "p2p");
    node(&world, "a", "n1", 1, 1);
    // One is well, one cannot be told.
    let later = datapath::moment::text(datapath::moment::seconds() + 20 * 24 * 3600);
    secret(&world, CONTROLLER_SECRET, &later);
    secret(&world, AGENT_SECRET, "some day");
    let arguments = world.joined("a");
    let mut controller = Program::start("controller", &arguments);
    let log = controller.said("renewed the token");
    let (renewed, _) = world.until("a", Resource::SECRETS, "another token", |secrets| {
        let agent = secrets.get(AGENT_SECRET)?;
        (data(agent, "token") != "former").then(|| agent.clone())
    });
    assert_eq!(
        (
            data(&renewed, "kubeconfig"),
            &renewed["metadata"]["annotations"]["kept"]
        ),
        ("kept".to_owned(), &json!("yes"))
    );
    let expires = renewed["metadata"]["annotations"][TOKEN_EXPIRES]
        .as_str()
        .unwrap();
    let left = datapath::moment::read(expires).unwrap() - datapath::moment::seconds();
    assert!(
        (29 * 24 * 3600..=30 * 24 * 3600).contains(&left),
        "{expires}"
    );
    let secrets = world.objects("a", Resource::SECRETS);
    assert_eq!(data(&secrets[CONTROLLER_SECRET], "token"), "former");
    // It is the agents', and lets nobody do more than an agent.
    let token = data(&renewed, "token");
    let may =
        |verb: &str, resource: &str, name: &str| world.may(CONTROL, &token, verb, resource, name);
    assert!(may("list", "nodeconfigs", "") && may("patch", "nodeconfigs/status", "a-n1"));
    assert!(!may("patch", "nodeconfigs", "a-n1") && !may("list", "clusters", ""));
    assert!(!controller.metrics().is_empty());
    assert!(!log.contains(&token), "{log}");
    controller.end();
}

#[test]
fn a_kubeconfig_names_its_token_relative_to_itself() {
    let world = World::new(&["a"]);
    cluster(&world, "a", "p2p");
    node(&world, "a", "n1", 1, 1);
    // `joined` gives the control plane's access as a folder with both files, as it is mounted in a pod.
    let controller = Program::start("controller", &world.joined("a"));
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "the node's ClusterNode",
        |nodes| nodes.contains_key("a-n1").then_some(()),
    );
    drop(controller);
    let own = rbac::controller_in_control_plane("a", NAMESPACE);
    let names: Vec<&String> = own.within[NAMESPACE]
        .iter()
        .filter_map(|rule| rule.resource_names.as_ref())
        .flatten()
        .collect();
    assert_eq!(names, [&agent_account("a"), &controller_account("a")]);
}
