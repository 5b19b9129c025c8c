//! T3.5: disks that are full, and disks that become read-only, under a coordinator and its agent.

use std::time::Instant;

use muster_proto::reapi::{BatchUpdateBlobsRequest, FindMissingBlobsRequest, batch_update_blobs_request};
use muster_tests::programs::{Fleet, Place, TestRun, eventually, start_until};
use muster_tests::remote::{Remote, digest_of};
use nix::sys::signal::Signal;
use tonic::Code;

use super::disk::Disk;
use super::{Promises, assert_all_passed, assert_no_panic, expect_up, fleet_on, runtime, shards};

const MEBIBYTE: usize = 1024 * 1024;
/// Clients that upload at the same time.
const UPLOADERS: usize = 16;
/// Uploads of each: together they are more than the disk.
const UPLOADS: usize = 8;
/// Lines that a coordinator on a dead disk may log in a test: a few of each kind.
const LOG_LINES_MAX: usize = 200;

/// Uploads and asks for what was uploaded, so that it must stay; answers the codes of all refusals and what was stored.
async fn fill(url: String, uploader: usize) -> (Vec<Code>, Vec<bytes::Bytes>) {
    let remote = Remote::connect(&url).await;
    let (mut refusals, mut stored) = (Vec::new(), Vec::new());
    for upload in 0..UPLOADS {
        let data = bytes::Bytes::from(vec![(uploader * UPLOADS + upload) as u8; MEBIBYTE]);
        let digest = digest_of(&data);
        let part = batch_update_blobs_request::Request {
            digest: Some(digest.clone()),
            data: data.clone(),
            ..Default::default()
        };
        let request = BatchUpdateBlobsRequest { requests: vec![part], ..BatchUpdateBlobsRequest::default() };
        let answer = remote.storage().batch_update_blobs(request).await;
        let code = answer.map_or_else(
            |status| status.code(),
            |answer| Code::from(answer.into_inner().responses[0].status.clone().unwrap_or_default().code),
        );
        if code != Code::Ok {
            refusals.push(code);
            continue;
        }
        let request = FindMissingBlobsRequest { blob_digests: vec![digest], ..FindMissingBlobsRequest::default() };
        let missing = remote.storage().find_missing_blobs(request).await.expect("an answer").into_inner();
        if missing.missing_blob_digests.is_empty() {
            stored.push(data);
        }
    }
    (refusals, stored)
}

fn test(place: &Place, fleet: &Fleet) -> TestRun {
    let output = place.muster(["test", "--format", "json", "--fleet", &fleet.url()]).output().expect("muster starts");
    TestRun::read(&output)
}

fn is_registered(place: &Place, fleet: &Fleet) -> bool {
    let status = fleet.status(place);
    status["agents"].as_array().is_some_and(|agents| agents.len() == 1 && agents[0]["state"] == "connected")
}

#[test]
fn t3_5_a_full_disk_refuses_uploads_and_goes_on_when_there_is_room() {
    let place = shards(4, 0.0);
    let fleet_folder = place.beside("fleet");
    let _disk = Disk::memory(&fleet_folder.join("coordinator"), 64 * MEBIBYTE as u64);
    let filler = fleet_folder.join("coordinator/somebody-else");
    std::fs::write(&filler, vec![0; 16 * MEBIBYTE]).expect("there is room");
    let fleet = Fleet::start(&place, 1);
    let runtime = runtime();
    let (refused, stored) = runtime.block_on(async {
        let uploaders: Vec<_> = (0..UPLOADERS).map(|uploader| tokio::spawn(fill(fleet.url(), uploader))).collect();
        let (mut refused, mut stored) = (Vec::new(), Vec::new());
        for uploader in uploaders {
            let (codes, blobs) = uploader.await.expect("no panic");
            refused.extend(codes);
            stored.extend(blobs);
        }
        (refused, stored)
    });
    assert!(!refused.is_empty() && !stored.is_empty());
    assert!(refused.iter().all(|code| *code == Code::ResourceExhausted), "{refused:?}");
    runtime.block_on(async {
        let remote = Remote::connect(&fleet.url()).await;
        for data in &stored {
            assert_eq!(remote.read(&digest_of(data)).await, data, "what was promised is there");
        }
    });
    assert!(is_registered(&place, &fleet), "{}", fleet.logs());
    std::fs::remove_file(&filler).expect("it is there");
    let returned = Instant::now();
    let run = test(&place, &fleet);
    println!("{} refused; a run passed {:.1} s after there was room", refused.len(), returned.elapsed().as_secs_f64());
    assert_all_passed(&run, &fleet, 4);
    assert_no_panic(&fleet);
}

#[test]
fn t3_5_an_agent_whose_disk_is_full_stays_and_works_again_when_there_is_room() {
    let place = shards(4, 0.0);
    let folder = place.beside("fleet/agent-0");
    let _disk = Disk::memory(&folder, 64 * MEBIBYTE as u64);
    let fleet = Fleet::start(&place, 1);
    let filler = folder.join("somebody-else");
    let mut file = std::fs::File::create(&filler).expect("there is room");
    std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("until there is none");
    drop(file);
    let command = place.muster(["test", "--format", "json", "--fleet", &fleet.url()]);
    let running = start_until(command, |event| event["event"] == "run_started");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(is_registered(&place, &fleet), "{}", fleet.logs());
    std::fs::remove_file(&filler).expect("it is there");
    // What was tried meanwhile is a fault of the fleet, never a verdict.
    let run = running.finish();
    assert!(run.outcomes().iter().all(|(_, outcome)| outcome == "passed" || outcome == "fault"), "{run:#?}");
    let again = test(&place, &fleet);
    assert_all_passed(&again, &fleet, 4);
    assert_no_panic(&fleet);
}

#[test]
fn t3_5_a_disk_that_becomes_read_only_refuses_and_is_not_told_of_without_end() {
    let place = shards(4, 0.0);
    let cache = place.beside("fleet/coordinator/cache");
    let (disk, mut fleet) = fleet_on(&place, &[], "1", || Disk::ext4(&cache, 64 * MEBIBYTE as u64));
    let runtime = runtime();
    let mut promises = Promises::default();
    runtime.block_on(async {
        let remote = expect_up(&mut fleet).await;
        for _ in 0..4 {
            assert!(promises.round(&remote).await, "{:?}", promises.refusals);
        }
    });
    let stored = promises.stored();
    disk.become_read_only();
    runtime.block_on(async {
        let remote = expect_up(&mut fleet).await;
        for _ in 0..40 {
            assert!(!promises.round(&remote).await, "a disk that can't be written takes nothing");
        }
    });
    assert_eq!(promises.stored(), stored, "nothing was promised");
    promises.assert_typed();
    assert!(is_registered(&place, &fleet), "{}", fleet.logs());
    let logged = fleet.logs().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
    assert!(logged <= LOG_LINES_MAX, "{logged} lines:\n{}", fleet.logs());
    let coordinator = fleet.coordinator.as_mut().expect("it runs");
    coordinator.signal(Signal::SIGTERM);
    coordinator.wait();
    disk.start_again();
    fleet.start_coordinator();
    eventually("the agent is back", || is_registered(&place, &fleet));
    runtime.block_on(async {
        let remote = expect_up(&mut fleet).await;
        promises.check(&remote, false).await;
        assert!(promises.round(&remote).await, "{:?}", promises.refusals.last());
    });
    assert_all_passed(&test(&place, &fleet), &fleet, 4);
    assert_no_panic(&fleet);
}
