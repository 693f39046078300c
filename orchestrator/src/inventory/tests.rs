//! Tests of the inventory.

use super::*;

/// A folder that is removed on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder(test: &str) -> Folder {
    let path =
        std::env::temp_dir().join(format!("floater-inventory-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&path).expect("the temporary folder is writable");
    Folder(path)
}

fn write(folder: &Folder, name: &str, contexts: &[&str]) -> PathBuf {
    let mut text = String::from(
        "apiVersion: v1\nkind: Config\nclusters:\n- {name: c, cluster: {server: 'https://127.0.0.1:1'}}\ncontexts:\n",
    );
    for context in contexts {
        text += &format!("- {{name: \"{context}\", context: {{cluster: c}}}}\n");
    }
    text += &format!("current-context: \"{}\"\n", contexts[0]);
    let path = folder.0.join(name);
    std::fs::write(&path, text).expect("the temporary folder is writable");
    path
}

fn names(targets: &[Target]) -> Vec<(&str, Role)> {
    targets
        .iter()
        .map(|target| (target.name.as_str(), target.role))
        .collect()
}

#[test]
fn a_server_is_shown_without_what_may_be_a_secret() {
    for (url, shown) in [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://operator:s3cret@host:1/path", "https://host:1/path"),
        ("https://a@b:p@host/?token=s3cret#s3cret", "https://host/"),
        ("operator:s3cret@host", "host"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
    ] {
        assert_eq!(without_secrets(url).to_string(), shown);
    }
}

#[test]
fn a_pair_takes_the_current_or_the_named_context() {
    let folder = folder("pair");
    let options = InventoryOptions {
        src_kubeconfig: Some(write(&folder, "a.yaml", &["east", "west"])),
        src_context: Some("west".into()),
        dst_kubeconfig: Some(write(&folder, "b.yaml", &["west", "north"])),
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("both are there");
    assert_eq!(
        names(&targets.targets),
        [("west@a", Role::Source), ("west@b", Role::Destination)]
    );
    let alone = InventoryOptions {
        dst_kubeconfig: None,
        ..options
    };
    let targets = load_with(&alone, None, None).expect("it is there");
    assert_eq!(names(&targets.targets), [("west", Role::Source)]);
}

#[test]
fn patterns_choose_contexts_and_each_has_to_match() {
    let folder = folder("patterns");
    let file = write(&folder, "a.yaml", &["prod-1", "prod-2", "test-1"]);
    let mut options = InventoryOptions {
        kubeconfigs: vec![file],
        contexts: vec!["prod-*".into()],
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("two match");
    assert_eq!(
        names(&targets.targets),
        [("prod-1", Role::Member), ("prod-2", Role::Member)]
    );
    options.contexts.push("stage-*".into());
    let error = load_with(&options, None, None).expect_err("none matches");
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().ends_with("no context matches stage-*"));
}

#[test]
fn a_folder_and_the_variable_are_inventories() {
    let folder = folder("folder");
    let a = write(&folder, "a.yaml", &["admin"]);
    let b = write(&folder, "b.conf", &["admin"]);
    std::fs::write(folder.0.join("README.md"), "no kubeconfig").expect("writable");
    std::fs::write(folder.0.join(".hidden"), "none either").expect("writable");
    let options = InventoryOptions {
        kubeconfig_dir: Some(folder.0.clone()),
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("two files");
    assert_eq!(
        names(&targets.targets),
        [("admin@a", Role::Member), ("admin@b", Role::Member)]
    );
    let list = std::env::join_paths([folder.0.join("absent"), b, a]).expect("no colon in it");
    let targets =
        load_with(&InventoryOptions::default(), Some(list), None).expect("merged as kubectl does");
    assert_eq!(names(&targets.targets), [("admin", Role::Member)]);
}

#[test]
fn without_an_inventory_the_current_context_alone_is_asked() {
    let folder = folder("current");
    let list = std::env::join_paths([write(&folder, "a.yaml", &["mine", "production"])])
        .expect("no colon in it");
    let load = |options| load_with(&options, Some(list.clone()), None);
    let targets = load(InventoryOptions::default()).expect("it has a current context");
    assert_eq!(names(&targets.targets), [("mine", Role::Member)]);
    let all = InventoryOptions {
        all_contexts: true,
        ..Default::default()
    };
    let targets = load(all.clone()).expect("two contexts");
    assert_eq!(
        names(&targets.targets),
        [("mine", Role::Member), ("production", Role::Member)]
    );
    let both = InventoryOptions {
        contexts: vec!["prod*".into()],
        ..all
    };
    assert_eq!(load(both).expect_err("contradicting").exit_code(), 64);
}

#[test]
fn contexts_of_one_name_are_told_apart_by_their_files() {
    let folder = folder("apart");
    for site in ["site-a", "site-b"] {
        std::fs::create_dir_all(folder.0.join(site)).expect("writable");
    }
    let files = [
        write(&folder, "site-a/k3s.yaml", &["default"]),
        write(&folder, "site-b/k3s.yaml", &["default", "other"]),
    ];
    let options = InventoryOptions {
        kubeconfigs: files.to_vec(),
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("they are there");
    let found: Vec<&str> = targets.targets.iter().map(|target| &*target.name).collect();
    assert_eq!(found, ["default@site-a.k3s", "default@site-b.k3s", "other"]);
}

#[test]
fn a_bad_file_or_entry_costs_itself_unless_it_is_all() {
    let folder = folder("bad");
    let good = write(&folder, "good.yaml", &["east"]);
    let note = folder.0.join("note.yaml");
    std::fs::write(&note, "west").expect("writable");
    let stale = folder.0.join("stale.yaml");
    std::fs::write(
        &stale,
        "clusters: [{name: c, cluster: {server: 'https://old.example', certificate-authority: /nowhere/ca.crt}}]\ncontexts: [{name: old, context: {cluster: c}}]\n",
    )
    .expect("writable");
    let load = |files: &[&PathBuf]| {
        let options = InventoryOptions {
            kubeconfigs: files.iter().map(|file| (*file).clone()).collect(),
            ..Default::default()
        };
        load_with(&options, None, None)
    };
    let inventory = load(&[&good, &note, &stale]).expect("one is good");
    assert_eq!(
        names(&inventory.targets),
        [("east", Role::Member), ("old", Role::Member)]
    );
    let Access::Unusable(why) = &inventory.targets[1].access else {
        panic!("it cannot be used");
    };
    assert!(
        why.contains("stale.yaml:1: ") && why.ends_with("(https://old.example)"),
        "{why}"
    );
    let [warning] = &inventory.warnings[..] else {
        panic!("{:?}", inventory.warnings);
    };
    assert!(
        warning.contains("note.yaml:1: ") && warning.ends_with("left out"),
        "{warning}"
    );
    for alone in [&note, &stale] {
        assert_eq!(load(&[alone]).expect_err("nothing is left").exit_code(), 65);
    }
}

#[test]
fn a_control_plane_comes_before_the_contexts_that_are_given_beside_it() {
    let folder = folder("beside");
    let mut options = InventoryOptions {
        fleet: Some(write(&folder, "hub.yaml", &["hub", "spare"])),
        kubeconfigs: vec![write(&folder, "all.yaml", &["hub", "east", "west"])],
        contexts: vec!["*st".into()],
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("they are there");
    assert_eq!(
        names(&targets.targets),
        [
            ("hub", Role::Fleet),
            ("east", Role::Member),
            ("west", Role::Member)
        ]
    );
    (options.kubeconfigs, options.contexts) = (Vec::new(), Vec::new());
    let targets = load_with(&options, None, None).expect("it is there");
    assert_eq!(names(&targets.targets), [("hub", Role::Fleet)]);
}

#[test]
fn contradictions_and_nothing_are_usage_errors() {
    let some = Some(PathBuf::from("x"));
    for options in [
        InventoryOptions::default(),
        InventoryOptions {
            src_kubeconfig: some.clone(),
            fleet: some.clone(),
            ..Default::default()
        },
        InventoryOptions {
            src_kubeconfig: some.clone(),
            kubeconfigs: vec!["y".into()],
            ..Default::default()
        },
        InventoryOptions {
            src_kubeconfig: some,
            dst_context: Some("c".into()),
            ..Default::default()
        },
    ] {
        let error = load_with(&options, None, None).expect_err("it is contradictory");
        assert_eq!(error.exit_code(), 64, "{error}");
    }
}

#[test]
fn control_characters_of_a_name_do_not_reach_a_terminal() {
    let folder = folder("control");
    let options = InventoryOptions {
        kubeconfigs: vec![write(&folder, "a.yaml", &["ea\\e[31mst"])],
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("it is there");
    assert_eq!(
        names(&targets.targets),
        [("ea\u{fffd}[31mst", Role::Member)]
    );
}

/// Contexts that differ in nothing but their numbers keep their order, their server and their line; those that a file breaks cost
/// themselves.
#[test]
fn ten_thousand_contexts_keep_names_places_and_order() {
    const COUNT: usize = 10_000;
    let folder = folder("many");
    let name = |at: usize| format!("c{at:05}");
    let mut text = String::from("clusters:\n");
    for at in 0..COUNT {
        let name = name(at);
        text += &format!(
            "- {{name: {name}, cluster: {{server: 'https://proxy.example/clusters/{name}'}}}}\n"
        );
    }
    text += "contexts:\n";
    for at in 0..COUNT {
        // Every hundredth names a cluster that is not there.
        let cluster = if at % 100 == 99 { "x" } else { &name(at) };
        text += &format!(
            "- {{name: {}, context: {{cluster: {cluster}}}}}\n",
            name(at)
        );
    }
    let file = folder.0.join("many.yaml");
    std::fs::write(&file, &text).expect("writable");
    let load = |files: &[&PathBuf], contexts: Vec<Pattern>| {
        let options = InventoryOptions {
            kubeconfigs: files.iter().map(|file| (*file).clone()).collect(),
            contexts,
            ..Default::default()
        };
        load_with(&options, None, None)
            .expect("most are good")
            .targets
    };
    let all = load(&[&file], Vec::new());
    assert_eq!(all.len(), COUNT);
    for (at, target) in all.iter().enumerate() {
        assert_eq!(target.name, name(at));
        let line = 3 + COUNT + at;
        match &target.access {
            Access::Context(selected) => {
                let server = format!("https://proxy.example/clusters/{}", name(at));
                assert_eq!((selected.server(), selected.line), (&*server, line as u64));
            }
            Access::Unusable(why) => {
                assert!(at % 100 == 99, "{why}");
                assert!(why.contains(&format!("many.yaml:{line}: ")), "{why}");
            }
            _ => panic!("it is of a file"),
        }
    }
    let some = load(&[&file], vec!["c09*".into(), "c0000?".into()]);
    let wanted = (0..10).chain(9000..COUNT).map(name);
    assert!(some.iter().map(|target| target.name.clone()).eq(wanted));

    let other = folder.0.join("other.yaml");
    std::fs::write(&other, &text).expect("writable");
    let twice = load(&[&file, &other, &file], Vec::new());
    let distinct: BTreeSet<&str> = twice.iter().map(|target| &*target.name).collect();
    assert_eq!(distinct.len(), 3 * COUNT);
    for (at, suffix) in [
        (7, "@many"),
        (COUNT + 7, "@other"),
        (2 * COUNT + 7, "@many#2"),
    ] {
        assert_eq!(twice[at].name, format!("{}{suffix}", name(7)));
    }
}

/// A context that is called as another would be is told apart from it, and keeps its own name.
#[test]
fn no_made_up_name_is_that_of_a_context() {
    let folder = folder("made-up");
    let contexts = ["a", "a@x", "a@x#2", "a@x#3"];
    let file = write(&folder, "x.yaml", &contexts);
    let options = InventoryOptions {
        kubeconfigs: vec![file, write(&folder, "y.yaml", &["a"])],
        ..Default::default()
    };
    let targets = load_with(&options, None, None).expect("all are good");
    let found: Vec<&str> = targets.targets.iter().map(|target| &*target.name).collect();
    assert_eq!(found, ["a@x#4", "a@x", "a@x#2", "a@x#3", "a@y"]);
}

/// A merged list of thousands of files with a context each that is broken: each is told with its own file.
#[test]
fn a_broken_context_of_many_files_names_its_own() {
    let folder = folder("merged");
    let good = write(&folder, "good.yaml", &["good"]);
    let mut files = vec![good];
    for at in 0..1000 {
        let file = folder.0.join(format!("f{at}.yaml"));
        let text = format!("contexts: [{{name: b{at}, context: {{cluster: nowhere}}}}]\n");
        std::fs::write(&file, text).expect("writable");
        files.push(file);
    }
    let list = std::env::join_paths(&files).expect("no colon in it");
    let options = InventoryOptions {
        all_contexts: true,
        ..Default::default()
    };
    let targets = load_with(&options, Some(list), None)
        .expect("one is good")
        .targets;
    assert_eq!(targets.len(), 1001);
    for (at, target) in targets.iter().skip(1).enumerate() {
        let Access::Unusable(why) = &target.access else {
            panic!("it cannot be used");
        };
        assert!(
            target.name == format!("b{at}") && why.contains(&format!("f{at}.yaml:1: ")),
            "{why}"
        );
    }
}
