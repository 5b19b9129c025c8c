//! A client of the Remote Execution API that remembers what it was told, and holds the coordinator to it.

use std::collections::HashSet;

use bytes::Bytes;
use muster_proto::reapi::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, FindMissingBlobsRequest,
    GetActionResultRequest, OutputFile, UpdateActionResultRequest, batch_update_blobs_request,
};
use muster_tests::remote::{Remote, digest_of};
use tonic::{Code, Status};

/// Blobs of one round: small ones go into packs, large ones into files.
const ROUND: usize = 8;
/// Blobs that are looked at again, the latest ones: what was looked at may not be evicted for a while, and a store must have room.
const LOOKED_AT: usize = 64 * ROUND;
/// Blobs read with one request: less than a message.
const READ_AT_ONCE: usize = 16;

/// What was offered to a coordinator, and what it answered.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// How many blobs were offered: they are numbered.
    offered: usize,
    /// Blobs that were answered as stored.
    stored: Vec<usize>,
    /// Rounds whose result was answered as stored: it points at all blobs of the round.
    results: Vec<usize>,
    /// What refusals said.
    pub(crate) refusals: Vec<Status>,
}

/// What a look at everything came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    /// Blobs that were stored and are there.
    pub(crate) blobs: usize,
    /// Results.
    pub(crate) results: usize,
}

fn content(number: usize) -> Bytes {
    let size = if number.is_multiple_of(ROUND) { 150_000 + number % 1000 } else { 1 + number * 37 % 3000 };
    let mut bytes = vec![0; size];
    blake3::Hasher::new_derive_key("muster tests: a numbered blob")
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

fn digest(number: usize) -> Digest {
    digest_of(&content(number))
}

fn action(round: usize) -> Digest {
    digest_of(format!("action {round}").as_bytes())
}

fn result(round: usize) -> ActionResult {
    let file =
        |number| OutputFile { path: format!("out/{number}"), digest: Some(digest(number)), ..OutputFile::default() };
    ActionResult { output_files: (round * ROUND..(round + 1) * ROUND).map(file).collect(), ..ActionResult::default() }
}

impl Promises {
    /// How many blobs were answered as stored.
    pub(crate) fn stored(&self) -> usize {
        self.stored.len()
    }

    /// One round: blobs, one request each, then a result of them. False when something was refused.
    pub(crate) async fn round(&mut self, remote: &Remote) -> bool {
        let round = self.offered / ROUND;
        let refusals = self.refusals.len();
        for number in self.offered..self.offered + ROUND {
            self.offered = number + 1;
            let data = content(number);
            let part =
                batch_update_blobs_request::Request { digest: Some(digest_of(&data)), data, ..Default::default() };
            let request = BatchUpdateBlobsRequest { requests: vec![part], ..BatchUpdateBlobsRequest::default() };
            match remote.storage().batch_update_blobs(request).await {
                Ok(response) => {
                    let part = response.into_inner().responses.pop().expect("one answer");
                    match part.status.filter(|status| status.code != 0) {
                        None => self.stored.push(number),
                        Some(status) => self.refusals.push(Status::new(Code::from(status.code), status.message)),
                    }
                }
                Err(status) => self.refusals.push(status),
            }
        }
        let request = UpdateActionResultRequest {
            action_digest: Some(action(round)),
            action_result: Some(result(round)),
            ..UpdateActionResultRequest::default()
        };
        match remote.action_cache().update_action_result(request).await {
            Ok(_) => self.results.push(round),
            Err(status) => self.refusals.push(status),
        }
        self.refusals.len() == refusals
    }

    /// Nothing else than trouble with room, with the disk or with the connection was told.
    pub(crate) fn assert_typed(&self) {
        for status in &self.refusals {
            let known =
                [Code::ResourceExhausted, Code::Internal, Code::Unavailable, Code::FailedPrecondition, Code::Unknown];
            assert!(known.contains(&status.code()), "{status:?}");
            // Unknown is what a broken connection is to its client; the coordinator itself never says it.
            assert!(status.code() != Code::Unknown || status.message().contains("transport"), "{status:?}");
        }
    }

    /// What is said to be there is there, byte by byte, results with everything that they point at. With `all`, so is what was stored.
    pub(crate) async fn check(&self, remote: &Remote, all: bool) -> Kept {
        let mut kept = Kept::default();
        let missing = self.missing(remote).await;
        let numbers: Vec<usize> = (self.looked_at_from()..self.offered).collect();
        for numbers in numbers.chunks(READ_AT_ONCE) {
            let request = BatchReadBlobsRequest {
                digests: numbers.iter().map(|number| digest(*number)).collect(),
                ..BatchReadBlobsRequest::default()
            };
            let parts = remote.storage().batch_read_blobs(request).await.expect("an answer").into_inner().responses;
            assert_eq!(parts.len(), numbers.len());
            for (number, part) in numbers.iter().zip(parts) {
                let there = !missing.contains(&digest(*number));
                let code = Code::from(part.status.unwrap_or_default().code);
                if there {
                    assert_eq!((code, &part.data), (Code::Ok, &content(*number)), "blob {number}");
                    kept.blobs += usize::from(self.stored.contains(number));
                } else {
                    assert_eq!(code, Code::NotFound, "blob {number}");
                    assert!(!all || !self.stored.contains(number), "blob {number} was stored and is gone");
                }
            }
        }
        for round in self.looked_at_from() / ROUND..self.offered / ROUND {
            let request =
                GetActionResultRequest { action_digest: Some(action(round)), ..GetActionResultRequest::default() };
            match remote.action_cache().get_action_result(request).await {
                Ok(found) => {
                    assert_eq!(found.into_inner(), result(round));
                    let numbers = round * ROUND..(round + 1) * ROUND;
                    let absent: Vec<Digest> = numbers.map(digest).filter(|digest| missing.contains(digest)).collect();
                    assert_eq!(absent, [], "the result of action {round} dangles");
                    kept.results += 1;
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::NotFound, "{status:?}");
                    assert!(!all || !self.results.contains(&round), "the result of action {round} is gone");
                }
            }
        }
        kept
    }

    fn looked_at_from(&self) -> usize {
        self.offered.saturating_sub(LOOKED_AT)
    }

    /// Which of the blobs that are looked at are said to be missing.
    async fn missing(&self, remote: &Remote) -> HashSet<Digest> {
        let request = FindMissingBlobsRequest {
            blob_digests: (self.looked_at_from()..self.offered).map(digest).collect(),
            ..FindMissingBlobsRequest::default()
        };
        let answer = remote.storage().find_missing_blobs(request).await.expect("an answer");
        answer.into_inner().missing_blob_digests.into_iter().collect()
    }

    /// From now on only what is there counts: what power took is no promise any more.
    pub(crate) async fn take_stock(&mut self, remote: &Remote) {
        let missing = self.missing(remote).await;
        let from = self.looked_at_from();
        self.stored.retain(|number| *number >= from && !missing.contains(&digest(*number)));
        let mut results = Vec::new();
        for round in std::mem::take(&mut self.results).into_iter().filter(|round| *round >= from / ROUND) {
            let request =
                GetActionResultRequest { action_digest: Some(action(round)), ..GetActionResultRequest::default() };
            if remote.action_cache().get_action_result(request).await.is_ok() {
                results.push(round);
            }
        }
        self.results = results;
    }
}
