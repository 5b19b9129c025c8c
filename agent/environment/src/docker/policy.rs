//! What a container is allowed, which no job can change: it is the same for all, but for numbers.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, RestartPolicy, RestartPolicyNameEnum,
};

use super::door;
use super::tree::Shown;

/// The host name in it.
const HOST_NAME: &str = "muster";
/// Paths that show nothing: what an engine hides by itself, what the sandbox hides, and all of `/sys`.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys",
    "/proc/fs",
];
/// Paths that nobody may write to.
const READ_ONLY: [&str; 3] = ["/proc/bus", "/proc/irq", "/proc/sys"];

/// What differs from one container to the next.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) image: String,
    /// The user and group on this machine; never 0.
    pub(super) owner: (u32, u32),
    pub(super) memory_bytes: u64,
    /// Processes and threads of the program.
    pub(super) processes: u32,
    pub(super) shown: &'a [Shown],
    /// The directory with the launcher and the socket.
    pub(super) door: String,
    /// The container whose network it shares; otherwise it has one of its own, with a loopback and nothing else.
    pub(super) network: Option<&'a str>,
    pub(super) labels: HashMap<String, String>,
}

/// What the engine is asked for.
pub(super) fn container(wanted: Wanted<'_>) -> ContainerCreateBody {
    let Wanted { image, owner: (uid, gid), memory_bytes, processes, shown, door, network, labels } = wanted;
    let memory = i64::try_from(memory_bytes).unwrap_or(i64::MAX);
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>());
    let mut mounts: Vec<Mount> = shown
        .iter()
        .map(|shown| bind(shown.here.to_string_lossy().into_owned(), shown.there.clone(), shown.is_read_only))
        .collect();
    mounts.push(bind(door, door::INSIDE.to_owned(), true));
    let host_config = HostConfig {
        privileged: Some(false),
        cap_drop: texts(&["ALL"]),
        security_opt: texts(&["no-new-privileges"]),
        readonly_rootfs: Some(true),
        network_mode: Some(network.map_or_else(|| "none".to_owned(), |container| format!("container:{container}"))),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        // The first process is counted too.
        pids_limit: Some(i64::from(processes) + 1),
        masked_paths: texts(&MASKED),
        readonly_paths: texts(&READ_ONLY),
        mounts: Some(mounts),
        devices: Some(Vec::new()),
        // Output goes to the agent, through pipes.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        // The first process is ours, and the agent removes the container itself.
        init: Some(false),
        auto_remove: Some(false),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        // With the network come the host name and whether there is a network at all.
        hostname: network.is_none().then(|| HOST_NAME.to_owned()),
        user: Some(format!("{uid}:{gid}")),
        image: Some(image),
        entrypoint: Some(door::command()),
        cmd: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        open_stdin: Some(false),
        tty: Some(false),
        network_disabled: Some(network.is_none()),
        labels: Some(labels),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

fn bind(source: String, target: String, is_read_only: bool) -> Mount {
    Mount {
        target: Some(target),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(is_read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn shown() -> impl Strategy<Value = Vec<Shown>> {
        let one = ("[a-z/.:,=]{0,12}", "/[a-z/.:,=]{0,12}", any::<bool>());
        let one = one.prop_map(|(here, there, is_read_only)| Shown {
            here: PathBuf::from(format!("/places/0/root/{here}")),
            there,
            is_read_only,
        });
        proptest::collection::vec(one, 0..8)
    }

    /// What a container may be given of what could be dangerous, whatever is asked for.
    const GIVEN: [(&str, &str); 10] = [
        ("Privileged", "false"),
        ("CapDrop", r#"["ALL"]"#),
        ("SecurityOpt", r#"["no-new-privileges"]"#),
        ("ReadonlyRootfs", "true"),
        ("IpcMode", r#""private""#),
        ("CgroupnsMode", r#""private""#),
        ("Devices", "[]"),
        ("Init", "false"),
        ("AutoRemove", "false"),
        ("LogConfig", r#"{"Type":"none"}"#),
    ];
    /// What is given besides.
    const NUMBERS: [&str; 8] =
        ["NetworkMode", "Memory", "MemorySwap", "PidsLimit", "MaskedPaths", "ReadonlyPaths", "Mounts", "RestartPolicy"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn t1_9_no_job_can_ask_for_more(
            image in ".{0,20}",
            uid in 1_u32..,
            memory_bytes: u64,
            processes: u32,
            shown in shown(),
            network in proptest::option::of("[0-9a-f]{12}"),
        ) {
            let sources: Vec<String> = shown.iter().map(|shown| shown.here.to_string_lossy().into_owned()).collect();
            let door = "/places/0/door".to_owned();
            let wanted =
                Wanted {
                    image,
                    owner: (uid, uid),
                    memory_bytes,
                    processes,
                    shown: &shown,
                    door,
                    network: network.as_deref(),
                    labels: HashMap::new(),
                };
            let body = serde_json::to_value(container(wanted)).expect("JSON");
            prop_assert_eq!(&body["User"], &json!(format!("{uid}:{uid}")));
            prop_assert_eq!(&body["NetworkDisabled"], &json!(network.is_none()));
            let mode = network.as_ref().map_or_else(|| "none".to_owned(), |network| format!("container:{network}"));
            prop_assert_eq!(&body["HostConfig"]["NetworkMode"], &json!(mode));
            prop_assert!(body.get("Volumes").is_none() && body.get("ExposedPorts").is_none());
            let host = body["HostConfig"].as_object().expect("an object");
            for (name, value) in host {
                let given = GIVEN.iter().find(|(given, _)| given == name);
                match given {
                    Some((_, expected)) => prop_assert_eq!(value, &serde_json::from_str::<Value>(expected).expect("JSON")),
                    None => prop_assert!(NUMBERS.contains(&name.as_str()), "{} is new", name),
                }
            }
            prop_assert!(GIVEN.iter().all(|(name, _)| host.contains_key(*name)));
            prop_assert_eq!(&host["Memory"], &host["MemorySwap"]);
            prop_assert!(host["PidsLimit"].as_i64().is_some_and(|limit| limit > 0));
            prop_assert!(host["MaskedPaths"].as_array().is_some_and(|paths| paths.contains(&json!("/sys"))));
            for mount in host["Mounts"].as_array().expect("an array") {
                prop_assert_eq!(&mount["Type"], &json!("bind"));
                prop_assert_eq!(&mount["BindOptions"]["Propagation"], &json!("rprivate"));
                let source = mount["Source"].as_str().expect("text");
                let is_door = source == "/places/0/door" && mount["ReadOnly"] == json!(true);
                prop_assert!(is_door || sources.iter().any(|known| known == source), "{source}");
            }
        }
    }
}
