//! Runs on record: judged again without any cluster, and gone on with.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::inventory::InventoryOptions;

/// A file of its own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("floater-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn replayed(record: &Path) -> Result<(Report, Vec<Progress>), Error> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let replayed = replay(&ReplayOptions {
        record: record.to_owned(),
        node_rows: false,
        progress: Arc::new(move |progress| sink.lock().expect("no panic").push(progress)),
    })?;
    let told = std::mem::take(&mut *told.lock().expect("no panic"));
    Ok((replayed.report, told))
}

/// Runs on record; the report and what was written.
async fn recorded(options: RunOptions, file: &Path) -> Result<Report, Error> {
    let recorder = Arc::new(Recorder::create(file).expect("a file"));
    let record = Some(Arc::clone(&recorder));
    let report = run(RunOptions { record, ..options }, never()).await;
    recorder.finish().expect("it was written");
    report
}

fn lines(record: &Path) -> Vec<String> {
    let bytes = std::fs::read(record).expect("a record");
    let text = zstd::decode_all(&bytes[..]).expect("zstd");
    let text = String::from_utf8(text).expect("text");
    text.lines().map(str::to_owned).collect()
}

fn write(record: &Path, lines: &[String]) {
    let text = lines.join("\n") + "\n";
    std::fs::write(record, zstd::encode_all(text.as_bytes(), 1).expect("zstd")).expect("a file");
}

fn bytes(report: &Report) -> String {
    crate::report::json::text(report)
}

#[tokio::test]
async fn a_replay_gives_the_same_bytes() {
    let folder = Folder::new("replay");
    let (east, west) = two(Behaviour {
        dead: ["100.64.2.1"].into(),
        never_ready: ["n2"].into(),
        ..Default::default()
    });
    let setup = setup(&[("west", &west), ("east", &east)]);
    let file = folder.file("run.zst");
    let report = recorded(setup.options, &file).await.expect("both answer");
    let (again, told) = replayed(&file).expect("a record");
    assert_eq!(bytes(&again), bytes(&report));
    assert!(
        told.iter()
            .any(|told| matches!(told, Progress::Started { .. }))
    );
    assert!(
        told.iter()
            .all(|told| !matches!(told, Progress::Warning(text) if text.contains("record")))
    );
}

/// Rows that differ are kept by number of their bucket, the rest of a line by word.
#[test]
fn what_is_read_is_what_was_written() {
    use datapath::digest::Differences;
    let folder = Folder::new("differences");
    let file = folder.file("run.zst");
    let row: datapath::state::Row = serde_json::from_value(json!({
        "row": "fdb",
        "is": {"link": "vx-bridge", "mac": "00:00:00:00:00:00", "dst": "100.64.0.1", "permanent": true},
    }))
    .expect("a row");
    let mut asked = crate::engine::messages::Asked::default();
    let tables = floater::wire::Tables {
        version: floater::wire::VERSION,
        node: "n1".to_owned(),
        state: datapath::state::NodeState::default(),
        differences: Some(Differences {
            bits: 4,
            buckets: [(6, vec![row]), (7, Vec::new())].into(),
        }),
        missing: Vec::new(),
    };
    asked.tables.insert("n1".to_owned(), Ok(tables));
    let input = Input::Asked {
        cluster: 3,
        asked: Ok(asked),
    };
    let settings: Settings = serde_json::from_value(json!({
        "run": "r", "what": What::default(), "purpose": "diagnose", "rounds": 1, "budget_pps": 1, "port": 1,
        "deadline": Duration::from_secs(1), "cluster_timeout": null, "control_plane": null, "chosen": false,
        "clusters_at_once": 1, "floaters_at_once": 1, "key": Key([1; 16]),
    }))
    .expect("settings");
    let recorder = Recorder::create(&file).expect("a file");
    recorder.header(&Header::new(
        "2026-01-01T00:00:00Z".to_owned(),
        settings,
        InventoryOptions::default(),
    ));
    recorder.input(Duration::from_millis(7), &input);
    recorder.end(1.5);
    recorder.finish().expect("it was written");
    let mut reader = record::Reader::open(&file).expect("a record");
    let Ok(Some(record::Line::Input { at, input: read })) = reader.next() else {
        panic!("no input");
    };
    assert_eq!(at, Duration::from_millis(7));
    assert_eq!(format!("{read:?}"), format!("{input:?}"));
    assert!(matches!(
        reader.next(),
        Ok(Some(record::Line::End { seconds: 1.5 }))
    ));
    assert!(matches!(reader.next(), Ok(None)));
}

#[tokio::test]
async fn what_ends_a_run_without_a_report_does_so_again() {
    let folder = Folder::new("nobody");
    let dead = Mock::new(
        1,
        1,
        Behaviour {
            refuses_connections: true,
            ..Default::default()
        },
    );
    let setup = setup(&[("east", &dead)]);
    let file = folder.file("run.zst");
    let error = recorded(setup.options, &file).await.expect_err("nobody");
    assert_eq!(replayed(&file).expect_err("nobody"), error);
}

/// Whatever line a killed run came to, what had come is judged: nothing fails that did not fail, nothing passes that did not.
#[tokio::test]
async fn a_record_that_is_cut_off_is_judged_by_what_it_holds() {
    let folder = Folder::new("cut");
    let (east, west) = two(Behaviour::default());
    let setup = setup(&[("west", &west), ("east", &east)]);
    let file = folder.file("run.zst");
    recorded(setup.options, &file).await.expect("both answer");
    let all = lines(&file);
    let cut = folder.file("cut.zst");
    for count in 1..all.len() {
        write(&cut, &all[..count]);
        match replayed(&cut) {
            Ok((report, told)) => {
                assert!(report.cells().all(|cell| cell.verdict != CellVerdict::Fail));
                let is_said = |told: &Progress| matches!(told, Progress::Warning(text) if text.contains("the record ends"));
                assert!(told.iter().any(is_said), "{count}");
            }
            Err(error) => assert!([65, 69].contains(&error.exit_code()), "{count}: {error}"),
        }
    }
    // In the middle of a frame, as a kill leaves it.
    let whole = std::fs::read(&file).expect("a record");
    for part in 1..16 {
        std::fs::write(&cut, &whole[..whole.len() * part / 16]).expect("a file");
        if let Err(error) = replayed(&cut) {
            assert!([65, 69].contains(&error.exit_code()), "{part}: {error}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_record_is_refused_by_its_line() {
    let folder = Folder::new("bad");
    let east = Mock::new(1, 1, Behaviour::default());
    let setup = setup(&[("east", &east)]);
    let file = folder.file("run.zst");
    recorded(setup.options, &file).await.expect("it answers");
    let good = lines(&file);
    let bad = folder.file("bad.zst");
    let changed = |line: usize, text: &str| {
        let mut lines = good.clone();
        text.clone_into(&mut lines[line]);
        lines
    };
    for (lines, rule) in [
        (changed(0, "{}"), "bad.zst:1: is not the first line"),
        (
            changed(0, r#"{"schema":"floater.record/v9"}"#),
            "bad.zst:1: is a floater.record/v9",
        ),
        (
            changed(0, &good[0].replace("\"rounds\":1", "\"rounds\":0")),
            "bad.zst:1: its rounds",
        ),
        (changed(1, "nonsense"), "bad.zst:2: cannot be understood"),
        (
            changed(good.len() - 1, r#"{"seconds":-1.0}"#),
            "is neither an input nor an end",
        ),
    ] {
        write(&bad, &lines);
        let error = replayed(&bad).expect_err("it is bad");
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(rule), "{error}");
    }
    // Names that no API server gives.
    let evil: Vec<String> = good
        .iter()
        .map(|line| line.replace("\"n1\"", "\"\\u001b[2J\""))
        .collect();
    write(&bad, &evil);
    let error = replayed(&bad).expect_err("it is evil");
    assert!(error.to_string().contains("a name is none"), "{error}");
    std::fs::write(&bad, "no zstd").expect("a file");
    assert_eq!(replayed(&bad).expect_err("no zstd").exit_code(), 65);
    assert_eq!(
        replayed(&folder.file("none"))
            .expect_err("no file")
            .exit_code(),
        65
    );
}

/// Lines of a record in any order and number: an answer to what was not asked is none.
#[tokio::test]
async fn lines_in_any_order_end_in_a_report_or_an_error() {
    let folder = Folder::new("shuffled");
    let (east, west) = two(Behaviour::default());
    let setup = setup(&[("west", &west), ("east", &east)]);
    let file = folder.file("run.zst");
    recorded(setup.options, &file).await.expect("both answer");
    let good = lines(&file);
    let bad = folder.file("bad.zst");
    let mut random = probe_plan::Random::new(7);
    for _ in 0..40 {
        let mut lines = vec![good[0].clone()];
        for _ in 0..2 * good.len() {
            let line = &good[1 + random.below(good.len() - 1)];
            lines.push(line.replace("\"cluster\":1", &format!("\"cluster\":{}", random.below(4))));
        }
        write(&bad, &lines);
        if let Ok((report, _)) = replayed(&bad) {
            assert!(report.cells().all(|cell| cell.verdict != CellVerdict::Fail));
        }
    }
}

/// No kubeconfig, no key, no token: whoever is given the file can ask nobody.
#[tokio::test]
async fn a_record_holds_no_secret_and_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("secret");
    let (east, west) = two(Behaviour::default());
    let setup = setup(&[("west", &west), ("east", &east)]);
    let file = folder.file("run.zst");
    recorded(setup.options, &file).await.expect("both answer");
    let mode = std::fs::metadata(&file).expect("a record").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let text = lines(&file).join("\n");
    for secret in ["kubeconfig:", "run-key", "BEGIN", "proof", "nonce"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// A disk that is full is said, and costs the record alone.
#[tokio::test]
async fn a_record_that_cannot_be_written_costs_itself() {
    let (east, west) = two(Behaviour::default());
    let setup = setup(&[("west", &west), ("east", &east)]);
    let recorder = Arc::new(Recorder::create(Path::new("/dev/full")).expect("a device"));
    let record = Some(Arc::clone(&recorder));
    let report = run(
        RunOptions {
            record,
            ..setup.options
        },
        never(),
    )
    .await
    .expect("both answer");
    assert!(report.cells().all(|cell| cell.verdict == CellVerdict::Pass));
    assert!(recorder.finish().is_err());
    assert!(Recorder::create(Path::new("/nowhere/at/all")).is_err());
}

/// The first run was killed after each of its lines in turn; the second one asks for the rest alone.
#[tokio::test]
async fn a_run_goes_on_where_another_was_killed() {
    let folder = Folder::new("resume");
    let (east, west) = two(Behaviour::default());
    let mut keeping = setup(&[("east", &east)]).options;
    keeping.keep = true;
    run(keeping, never()).await.expect("it answers");
    // From now on floaters stand ready in east, and west is given some by each run.
    let clusters = [("east", &east), ("west", &west)];
    let file = folder.file("run.zst");
    let first = recorded(setup(&clusters).options, &file)
        .await
        .expect("both answer");
    let all = lines(&file);
    let cut = folder.file("cut.zst");
    let tables = |mock: &Mock| {
        mock.log()
            .iter()
            .filter(|line| line.ends_with("/v2/tables"))
            .count()
    };
    let mut spared = false;
    for count in (1..all.len()).step_by(3).chain([all.len()]) {
        write(&cut, &all[..count]);
        let before = tables(&east);
        let mut options = setup(&clusters).options;
        options.resume = Some(cut.clone());
        let report = run(options, never()).await.expect("both answer");
        spared |= tables(&east) == before;
        for (cell, then) in report.cells().zip(first.cells()) {
            let now = (
                cell.src,
                cell.dst,
                cell.layer,
                cell.verdict,
                cell.sent,
                cell.received,
            );
            let then = (
                then.src,
                then.dst,
                then.layer,
                then.verdict,
                then.sent,
                then.received,
            );
            assert_eq!(now, then, "after {count} lines");
        }
        assert_eq!(report.coverage, first.coverage);
        assert_eq!(west.ours(), Vec::<String>::new());
    }
    assert!(spared, "a cluster that is known is not asked again");
}

#[tokio::test]
async fn a_run_of_yesterday_is_not_gone_on_with() {
    let folder = Folder::new("old");
    let east = Mock::new(1, 1, Behaviour::default());
    let file = folder.file("run.zst");
    recorded(setup(&[("east", &east)]).options, &file)
        .await
        .expect("it answers");
    let mut old = lines(&file);
    let mut header: serde_json::Value = serde_json::from_str(&old[0]).expect("JSON");
    header["started"] = json!("2001-01-01T00:00:00Z");
    old[0] = header.to_string();
    write(&file, &old);
    let mut options = setup(&[("east", &east)]).options;
    options.resume = Some(file);
    let error = run(options, never()).await.expect_err("it is old");
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("begin anew"), "{error}");
}

/// What was written a second ago is readable while the run goes on.
#[tokio::test]
async fn a_record_is_readable_while_its_run_waits() {
    let folder = Folder::new("waits");
    let (east, west) = two(Behaviour {
        hang: vec![(Method::GET, "/api/v1/nodes")],
        ..Default::default()
    });
    let file = folder.file("run.zst");
    let recorder = Arc::new(Recorder::create(&file).expect("a file"));
    let mut options = setup(&[("east", &east), ("west", &west)]).options;
    options.record = Some(recorder);
    let (seen, copy) = (file.clone(), folder.file("copy.zst"));
    let has_come = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let bytes = std::fs::read(&seen).expect("a record");
            std::fs::File::create(&copy)
                .and_then(|mut file| file.write_all(&bytes))
                .expect("a copy");
            if let Ok(mut reader) = record::Reader::open(&copy) {
                let mut count = 0;
                while let Ok(Some(_)) = reader.next() {
                    count += 1;
                }
                // The inventory, both first answers and one of the looks.
                if count >= 4 {
                    break;
                }
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(60), run(options, has_come))
        .await
        .expect("it is read")
        .expect_err("interrupted");
    assert_eq!(error.exit_code(), 130);
}
