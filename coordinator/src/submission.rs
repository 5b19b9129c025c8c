//! The door of a run: what has to be true before it is accepted.

use std::fmt::Write;
use std::sync::Arc;

use muster_model::limits;
use muster_model::platform::{BaseRequest, Lack, Requirements, Weakness};
use muster_model::spec::RunSpec;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agents::Offered;

/// Offers as they are now and will be.
pub(crate) type Offers = watch::Receiver<Arc<Vec<Offered>>>;

/// Agents that one message lists.
const AGENTS_IN_MESSAGE_MAX: usize = 5;

/// Why no agent can run a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsatisfied {
    /// There is no agent at all.
    #[error("no agent is connected that takes work\nhint: start one with `muster agent start --coordinator URL`")]
    NoAgent,
    /// Every agent lacks something.
    #[error("no agent can run {target}: {lacks}")]
    Lacking {
        /// The target's name.
        target: String,
        /// What each lacks and offers.
        lacks: String,
    },
    /// Every agent that could run it otherwise is too small.
    #[error(
        "no agent is large enough for {target}: {lacks}\nhint: ask for less with `cpu` or `memory` in muster.toml, or start a larger agent: `muster agent start --slots N`"
    )]
    TooLarge {
        /// The target's name.
        target: String,
        /// What each lacks.
        lacks: String,
    },
}

/// Pins every base to what an agent offers, waiting a little for the first agent that satisfies.
pub(crate) async fn pin(mut offers: Offers, spec: &mut RunSpec) -> Result<(), Unsatisfied> {
    let waited = timeout(limits::AGENT_WAIT, async {
        loop {
            let now = offers.borrow_and_update().clone();
            if let Ok(pinned) = try_pin(&now, spec) {
                return Some(pinned);
            }
            offers.changed().await.ok()?;
        }
    });
    let pinned = match waited.await {
        Ok(Some(pinned)) => pinned,
        _ => {
            let now = offers.borrow().clone();
            try_pin(&now, spec)?
        }
    };
    for (target, requirements) in spec.targets.iter_mut().zip(pinned) {
        target.requirements = requirements;
    }
    Ok(())
}

fn try_pin(offers: &[Offered], spec: &RunSpec) -> Result<Vec<Requirements>, Unsatisfied> {
    let pinned = spec.targets.iter().map(|target| {
        pin_target(offers, &target.requirements).map_err(|lacks| match lacks {
            None => Unsatisfied::NoAgent,
            Some(lacks) if is_too_large(offers, &target.requirements) => {
                Unsatisfied::TooLarge { target: target.name.clone(), lacks }
            }
            Some(lacks) => Unsatisfied::Lacking { target: target.name.clone(), lacks },
        })
    });
    pinned.collect()
}

/// What sandboxes may lack so that there is somebody to run them, the strictest first, which is nothing.
pub(crate) fn tolerances(offers: &[Offered]) -> Vec<Vec<Weakness>> {
    let mut tolerances: Vec<Vec<Weakness>> = offers.iter().map(|offered| offered.offer.without.clone()).collect();
    tolerances.push(Vec::new());
    tolerances.sort_by(|left, right| (left.len(), left).cmp(&(right.len(), right)));
    tolerances.dedup();
    tolerances
}

/// Settles the base, and which walls may be missing: none, unless everybody who could run it lacks some.
fn pin_target(offers: &[Offered], requirements: &Requirements) -> Result<Requirements, Option<String>> {
    let mut refused = None;
    for without in tolerances(offers) {
        let tolerant = Requirements { without, ..requirements.clone() };
        match pin_one(offers, &tolerant) {
            Ok(base) => return Ok(Requirements { base, ..tolerant }),
            Err(lacks) => refused = refused.or(lacks),
        }
    }
    Err(refused)
}

/// Whether size is what is missing somewhere where nothing else is.
fn is_too_large(offers: &[Offered], requirements: &Requirements) -> bool {
    offers.iter().any(|offered| offered.offer.satisfies(requirements).is_err_and(|lack| lack.is_of_size()))
}

/// The base of the agents with the most slots among those that satisfy; or what each agent lacks, none when there is no agent.
pub(crate) fn pin_one(offers: &[Offered], requirements: &Requirements) -> Result<BaseRequest, Option<String>> {
    let satisfying = || offers.iter().filter(|offered| offered.offer.satisfies(requirements).is_ok());
    if satisfying().next().is_none() {
        return Err((!offers.is_empty()).then(|| describe(offers, requirements)));
    }
    let BaseRequest::Named(name) = &requirements.base else { return Ok(requirements.base.clone()) };
    let mut slots = std::collections::BTreeMap::new();
    for offered in satisfying() {
        for base in offered.offer.bases.iter().filter(|base| base.name == *name) {
            *slots.entry(base).or_insert(0_u64) += u64::from(offered.slots);
        }
    }
    let widest = slots.into_iter().max_by_key(|(_, slots)| *slots).map(|(base, _)| base.clone());
    Ok(widest.map_or_else(|| requirements.base.clone(), BaseRequest::Pinned))
}

fn describe(offers: &[Offered], requirements: &Requirements) -> String {
    let mut text = String::new();
    for (position, offered) in offers.iter().take(AGENTS_IN_MESSAGE_MAX).enumerate() {
        let Err(lack) = offered.offer.satisfies(requirements) else { continue };
        let separator = if position > 0 { "; " } else { "" };
        // Writing to a String can't fail.
        let _ = write!(text, "{separator}agent {} lacks {lack}{}", offered.name, alternatives(offered, &lack));
    }
    if offers.len() > AGENTS_IN_MESSAGE_MAX {
        let _ = write!(text, "; and {} more", offers.len() - AGENTS_IN_MESSAGE_MAX);
    }
    text
}

fn alternatives(offered: &Offered, lack: &Lack) -> String {
    let offers: Vec<String> = match lack {
        Lack::Base(_) => offered.offer.bases.iter().map(ToString::to_string).collect(),
        Lack::Environment(_) => offered.offer.environments.iter().map(|kind| kind.name().to_owned()).collect(),
        // The lack itself says what the agent has under that key.
        Lack::Property { .. } | Lack::Slots { .. } | Lack::Memory { .. } | Lack::Wall(_) => return String::new(),
        Lack::Tag(_) => {
            let labels = offered.offer.properties.iter();
            labels.map(|(key, value)| format!("{key}={value}")).collect()
        }
    };
    if offers.is_empty() { " and offers none".into() } else { format!(" and offers {}", offers.join(", ")) }
}

#[cfg(test)]
mod tests {
    use muster_model::Digest;
    use muster_model::platform::{Base, EnvironmentKind, Offer, Properties};
    use muster_model::spec::{FrameworkKind, TargetSpec};

    use super::*;

    fn offered(name: &str, slots: u32, content: &[u8]) -> Offered {
        let base = Base { name: "debian-12".into(), digest: Digest::of(content) };
        let properties = Properties::new([("arch".into(), "x86_64".into())]);
        let environments = vec![EnvironmentKind::Sandbox];
        let offer =
            Offer { bases: vec![base], environments, properties, slots, memory_bytes: 1 << 30, without: vec![] };
        Offered { name: name.into(), slots, offer }
    }

    fn requirements(base: &str) -> Requirements {
        Requirements { base: BaseRequest::Named(base.into()), ..Requirements::default() }
    }

    #[test]
    fn a_name_is_pinned_to_the_digest_with_the_most_slots() {
        let offers = [offered("a", 3, b"old"), offered("b", 2, b"new"), offered("c", 2, b"new")];
        let pinned = pin_one(&offers, &requirements("debian-12"));
        let new = Base { name: "debian-12".into(), digest: Digest::of(b"new") };
        assert_eq!(pinned, Ok(BaseRequest::Pinned(new)));
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_what_is_there() {
        let offers = [offered("a", 3, b"old")];
        let lacks = pin_one(&offers, &requirements("alpine")).expect_err("another base").expect("an agent");
        assert_eq!(lacks, "agent a lacks base alpine and offers debian-12@96a4257289f9");
        let mut other = requirements("debian-12");
        other.properties.set("arch".into(), "aarch64".into());
        let lacks = pin_one(&offers, &other).expect_err("another architecture").expect("an agent");
        assert_eq!(lacks, "agent a lacks property arch=aarch64 (it has arch=x86_64)");
        assert_eq!(pin_one(&[], &other), Err(None));
        let mut tagged = requirements("debian-12");
        tagged.tags.push("gpu".into());
        let lacks = pin_one(&offers, &tagged).expect_err("no such label").expect("an agent");
        assert_eq!(lacks, "agent a lacks tag gpu and offers arch=x86_64");
    }

    #[test]
    fn what_agents_lack_is_settled_only_where_all_of_them_do() {
        let weak = |name: &str, without: &[Weakness]| {
            let mut weak = offered(name, 1, b"old");
            weak.offer.without = without.to_vec();
            weak
        };
        let without = |offers: &[Offered]| pin_target(offers, &requirements("debian-12")).map(|pinned| pinned.without);
        let (groups, landlock) = (Weakness::ControlGroups, Weakness::Landlock);
        assert_eq!(without(&[weak("a", &[groups, landlock]), weak("b", &[landlock])]), Ok(vec![landlock]));
        assert_eq!(without(&[weak("a", &[groups]), weak("b", &[])]), Ok(vec![]));
        let asked = Requirements { without: vec![groups], ..requirements("debian-12") };
        let pinned = pin_target(&[weak("a", &[])], &asked).expect("it is there");
        assert_eq!(pinned.without, [], "what a client says of it does not count");
    }

    #[test]
    fn what_is_larger_than_every_agent_is_refused_with_a_hint() {
        let offers = [offered("a", 3, b"old"), offered("b", 2, b"old")];
        let mut wide = requirements("debian-12");
        wide.resources.slots = 4;
        let targets = vec![target("wide", wide)];
        let spec = RunSpec { project: "p".into(), targets, policy: Default::default() };
        let said = try_pin(&offers, &spec).expect_err("too wide").to_string();
        let (sentence, hint) = said.split_once('\n').expect("a hint");
        assert_eq!(
            sentence,
            "no agent is large enough for wide: agent a lacks slots: an attempt takes 4 and it has 3; agent b lacks slots: an attempt takes 4 and it has 2"
        );
        assert!(hint.starts_with("hint: ask for less with `cpu` or `memory`"), "{hint}");
    }

    fn target(name: &str, requirements: Requirements) -> TargetSpec {
        TargetSpec {
            name: name.into(),
            suite: "suite".into(),
            framework: FrameworkKind::Libtest,
            command: Default::default(),
            layers: Vec::new(),
            requirements,
            limits: Default::default(),
            shards: 0,
            policy: Default::default(),
            services: Vec::new(),
        }
    }
}
