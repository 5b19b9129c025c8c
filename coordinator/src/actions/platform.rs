//! What a platform of the Remote Execution API asks of an agent.
//!
//! A property is a label that the agent must carry with exactly that value, with these exceptions:
//!
//! - `base` names the base that the action's root is: see the agent's offer. `none` is an empty root. Without it the base is the one that most
//!   slots offer;
//! - `OSFamily` and `ISA` are offered by every agent for what it is (platform lexicon of the Remote Execution API), and their case does not matter.
//!
//! What no agent offers is answered at once: a wait could only be endless.

use muster_model::platform::{BaseRequest, Lack, Properties, Requirements};
use muster_proto::reapi;

use crate::agents::Offered;
use crate::submission;

/// The property that names the base.
const BASE: &str = "base";
/// Its value for no base at all.
const NO_BASE: &str = "none";
/// Properties whose values are compared without case.
const CASELESS: [&str; 2] = ["OSFamily", "ISA"];

/// Why an action can't be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unplaceable {
    /// There is no agent at all, which may change at any moment.
    #[error("no agent is connected that takes work")]
    NoAgent,
    /// One property with two values, of which an agent can only have one.
    #[error("platform property {name} is asked to be both {first:?} and {second:?}")]
    Contradiction {
        /// The property.
        name: String,
        /// One value.
        first: String,
        /// Another.
        second: String,
    },
    /// Every agent lacks something.
    #[error("no agent satisfies the platform: {nearest}")]
    Unsatisfied {
        /// The nearest agent and what it lacks.
        nearest: String,
    },
}

/// What `platform` asks for; the base is not settled yet, `None` when the platform does not name one.
pub(crate) fn requirements(platform: &reapi::Platform) -> Result<(Requirements, bool), Unplaceable> {
    let mut requirements = Requirements::default();
    let mut names_base = false;
    let mut seen = Properties::default();
    for property in &platform.properties {
        let is_caseless = CASELESS.contains(&property.name.as_str());
        let value = if is_caseless { property.value.to_ascii_lowercase() } else { property.value.clone() };
        if let Some(first) = seen.get(&property.name).filter(|first| *first != value) {
            let (name, first) = (property.name.clone(), first.to_owned());
            return Err(Unplaceable::Contradiction { name, first, second: value });
        }
        seen.set(property.name.clone(), value.clone());
        if property.name != BASE {
            requirements.properties.set(property.name.clone(), value);
            continue;
        }
        names_base = true;
        requirements.base = if value == NO_BASE { BaseRequest::None } else { BaseRequest::Named(value) };
    }
    Ok((requirements, names_base))
}

/// Settles the base among what agents offer, and which walls their sandboxes may lack.
pub(crate) fn place(offers: &[Offered], platform: &reapi::Platform) -> Result<Requirements, Unplaceable> {
    let (requirements, names_base) = requirements(platform)?;
    let mut refused = Unplaceable::NoAgent;
    for (position, without) in submission::tolerances(offers).into_iter().enumerate() {
        match settle(offers, Requirements { without, ..requirements.clone() }, names_base) {
            Ok(placed) => return Ok(placed),
            Err(error) if position == 0 => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}

fn settle(offers: &[Offered], requirements: Requirements, names_base: bool) -> Result<Requirements, Unplaceable> {
    if names_base {
        let base = submission::pin_one(offers, &requirements).map_err(|_| refuse(offers, &requirements))?;
        return Ok(Requirements { base, ..requirements });
    }
    let satisfying: Vec<&Offered> =
        offers.iter().filter(|offered| offered.offer.satisfies(&requirements).is_ok()).collect();
    if satisfying.is_empty() {
        return Err(refuse(offers, &requirements));
    }
    let mut slots = std::collections::BTreeMap::new();
    for offered in satisfying {
        for base in &offered.offer.bases {
            *slots.entry(base).or_insert(0_u64) += u64::from(offered.slots);
        }
    }
    let widest = slots.into_iter().max_by_key(|(_, slots)| *slots).map(|(base, _)| base.clone());
    Ok(Requirements { base: widest.map_or(BaseRequest::None, BaseRequest::Pinned), ..requirements })
}

/// Names the agent that lacks least, with everything that it lacks.
fn refuse(offers: &[Offered], requirements: &Requirements) -> Unplaceable {
    let lacks = offers.iter().map(|offered| (all_lacks(offered, requirements), offered));
    match lacks.min_by_key(|(lacks, _)| lacks.len()) {
        None => Unplaceable::NoAgent,
        Some((lacks, offered)) => {
            let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
            let nearest = format!("the nearest agent, {}, lacks {}", offered.name, lacks.join(" and "));
            Unplaceable::Unsatisfied { nearest }
        }
    }
}

/// Everything that an agent lacks, and not only the first thing.
fn all_lacks(offered: &Offered, requirements: &Requirements) -> Vec<Lack> {
    let whole = Requirements { properties: Properties::default(), ..requirements.clone() };
    let mut lacks: Vec<Lack> = offered.offer.satisfies(&whole).err().into_iter().collect();
    for (key, wanted) in requirements.properties.iter() {
        let known = offered.offer.properties.get(key);
        if known != Some(wanted) {
            lacks.push(Lack::Property { key: key.into(), wanted: wanted.into(), offered: known.map(Into::into) });
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use muster_model::Digest;
    use muster_model::platform::{Base, EnvironmentKind, Offer};

    use super::*;

    fn agent(name: &str, slots: u32, base: &str, labels: &[(&str, &str)]) -> Offered {
        let base = Base { name: base.into(), digest: Digest::of(base.as_bytes()) };
        let own = [("OSFamily", "linux"), ("ISA", "x86-64")];
        let properties = own.iter().chain(labels).map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let properties = Properties::new(properties);
        let environments = vec![EnvironmentKind::Sandbox];
        let offer = Offer { bases: vec![base], environments, properties, ..Offer::default() };
        Offered { name: name.into(), slots, offer }
    }

    fn platform(properties: &[(&str, &str)]) -> reapi::Platform {
        let property =
            |&(name, value): &(&str, &str)| reapi::platform::Property { name: name.into(), value: value.into() };
        reapi::Platform { properties: properties.iter().map(property).collect() }
    }

    fn base_of(requirements: &Requirements) -> &str {
        let BaseRequest::Pinned(base) = &requirements.base else { panic!("{:?}", requirements.base) };
        &base.name
    }

    #[test]
    fn without_a_base_it_is_the_one_that_most_slots_offer() {
        let offers = [agent("a", 2, "debian-12", &[]), agent("b", 3, "alpine", &[]), agent("c", 2, "debian-12", &[])];
        assert_eq!(base_of(&place(&offers, &platform(&[])).unwrap()), "debian-12");
        assert_eq!(base_of(&place(&offers, &platform(&[("base", "alpine")])).unwrap()), "alpine");
        let none = place(&offers, &platform(&[("base", "none")])).unwrap();
        assert_eq!(none.base, BaseRequest::None);
    }

    #[test]
    fn what_every_agent_is_is_compared_without_case_and_labels_exactly() {
        let offers = [agent("a", 2, "debian-12", &[("pool", "Large")])];
        assert!(place(&offers, &platform(&[("ISA", "X86-64"), ("OSFamily", "Linux")])).is_ok());
        assert!(place(&offers, &platform(&[("pool", "Large")])).is_ok());
        assert!(place(&offers, &platform(&[("pool", "large")])).is_err());
    }

    #[test]
    fn a_refusal_names_property_value_and_the_nearest_agent() {
        let offers = [agent("far", 2, "debian-12", &[]), agent("near", 2, "debian-12", &[("pool", "large")])];
        let wanted = platform(&[("container-image", "docker://gcc"), ("pool", "large")]);
        let said = place(&offers, &wanted).expect_err("no such image").to_string();
        assert_eq!(
            said,
            "no agent satisfies the platform: the nearest agent, near, lacks property container-image=docker://gcc"
        );
        let said =
            place(&offers, &platform(&[("pool", "small"), ("base", "alpine")])).expect_err("neither").to_string();
        assert_eq!(
            said,
            "no agent satisfies the platform: the nearest agent, far, lacks base alpine and property pool=small"
        );
    }

    #[test]
    fn a_contradiction_and_an_empty_fleet_are_told_apart() {
        let both = platform(&[("pool", "a"), ("pool", "b")]);
        assert!(matches!(place(&[], &both), Err(Unplaceable::Contradiction { .. })));
        assert_eq!(place(&[], &platform(&[])), Err(Unplaceable::NoAgent));
    }
}
