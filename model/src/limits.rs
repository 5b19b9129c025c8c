//! Every bound of the fleet, unit last in the name. Each is used somewhere, and a test checks that.

use core::time::Duration;

/// One gRPC message, in bytes, either way (the default of most peers).
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Payload of one batch of blobs, in bytes; leaves room for the framing in one message.
pub const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
/// One chunk of a streamed blob, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The window that a Zstandard frame of a client may ask for, in bytes; a power of two.
pub const ZSTD_WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Average size of a chunk of a split blob, in bytes; what the Remote Execution API recommends.
pub const CHUNKING_AVERAGE_BYTES: usize = 512 * 1024;
/// One blob, in bytes.
pub const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Chunks of which one blob is spliced.
pub const CHUNKS_PER_SPLICE_MAX: usize = 50_000;
/// Digests in one question for missing blobs.
pub const FIND_MISSING_DIGESTS_MAX: usize = 50_000;
/// Bytes of uploads, long questions and batches of blobs that a coordinator holds in memory at one time, all clients together.
pub const UPLOAD_BYTES_IN_FLIGHT_MAX: usize = 256 * 1024 * 1024;
/// Bytes of a streamed blob that are read ahead of the client that takes it.
pub const DOWNLOAD_BYTES_AHEAD_MAX: usize = 64 * 1024;
/// How long a client may take nothing of a download that waits for it.
pub const DOWNLOAD_STALL_TIME: Duration = Duration::from_secs(30);
/// Bytes of requests that are not whole, or of messages of a stream that are not, which a coordinator holds in memory at one time, all clients
/// together. Reports of agents may have as much again.
pub const ARRIVING_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes of each request that are not counted among them: its share of the connection's window.
pub const ARRIVING_BYTES_FREE: usize = 64 * 1024;
/// Bytes that an upload, or any other request, must bring in each [`UPLOAD_PROGRESS_TIME`] that the coordinator waits for it.
pub const UPLOAD_PROGRESS_BYTES_MIN: u64 = 64 * 1024;
/// See [`UPLOAD_PROGRESS_BYTES_MIN`].
pub const UPLOAD_PROGRESS_TIME: Duration = Duration::from_secs(30);
/// Client programs that are counted each for itself.
pub const CLIENTS_COUNTED_MAX: usize = 100;
/// Bytes of a client program's name.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// An entry that a client of a small cache protocol stores under its own name, in bytes.
pub const NAMED_ENTRY_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Path of a request to an HTTP cache, in bytes.
pub const HTTP_PATH_BYTES_MAX: usize = 4096;
/// URIs and qualifiers of one asset, each.
pub const ASSET_NAMES_MAX: usize = 64;
/// A URI, or a qualifier's name or value, in bytes.
pub const ASSET_NAME_BYTES_MAX: usize = 8192;
/// Names in one question about entries of an HTTP cache.
pub const ENTRIES_ASKED_MAX: usize = 10_000;
/// Bytes of an instance's name.
pub const INSTANCE_NAME_BYTES_MAX: usize = 255;
/// Bytes of blobs cached by a coordinator or an agent, unless configured.
pub const CACHE_BYTES_DEFAULT: u64 = 10 * 1024 * 1024 * 1024;
/// How long a blob stays after a store said that it is there, unless a coordinator is configured otherwise.
pub const BLOB_LEASE_TIME: Duration = Duration::from_secs(600);
/// The least that it can be configured to: what a client needs to use what it was told of.
pub const BLOB_LEASE_TIME_MIN: Duration = Duration::from_secs(60);
/// The most that it can be configured to.
pub const BLOB_LEASE_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Blobs of at most this size, in bytes, are kept together in packs instead of in files of their own. Measured: `docs/benchmarks.md`, `packs`.
pub const PACKED_BLOB_BYTES_MAX: u64 = 64 * 1024;
/// The same for an agent, whose blobs are linked into the trees of tests: a link is cheaper than a copy.
pub const AGENT_PACKED_BLOB_BYTES_MAX: u64 = 4096;
/// Packs that a store keeps open.
pub const OPEN_PACKS_MAX: usize = 256;
/// Blobs of which a store knows without asking its index that they are here; about 150 bytes each.
pub const KNOWN_BLOBS_MAX: usize = 262_144;
/// Bytes that a store leaves free on its file system, or a sixteenth of it if that is less.
pub const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of not yet synced blobs that are hashed when a store is opened after a stop out of order; the rest is forgotten.
pub const UNSYNCED_BYTES_VERIFIED_MAX: u64 = 1024 * 1024 * 1024;
/// Corrupt blobs that a store keeps for inspection.
pub const QUARANTINED_BLOBS_MAX: usize = 16;
/// Results that are kept because their action had come to another outcome before.
pub const DIVERGENT_RESULTS_MAX: usize = 1000;
/// Such results of one action.
pub const DIVERGENT_RESULTS_PER_ACTION_MAX: usize = 8;
/// Blobs or results in one page of a store's list.
pub const LISTED_ENTRIES_MAX: usize = 1000;
/// Requests and streams that one transfer of many blobs keeps under way.
pub const TRANSFERS_CONCURRENT_MAX: usize = 8;
/// Uploads that a server keeps open at one time, those waiting to be resumed included.
pub const UPLOADS_OPEN_MAX: usize = 1024;
/// How long an upload whose connection broke can be resumed.
pub const UPLOAD_RESUME_TIME: Duration = Duration::from_secs(60);
/// Directories that a coordinator remembers to be whole with everything below them.
pub const WHOLE_TREES_REMEMBERED_MAX: usize = 1_000_000;
/// Files, directories and links of all trees that an agent keeps staged.
pub const STAGED_NODES_MAX: usize = 4_000_000;
/// Entries of directories that an agent keeps in memory, so that trees which share them are compared quickly; about 150 bytes each.
pub const DIRECTORY_ENTRIES_KEPT_MAX: usize = 300_000;
/// Connections that a coordinator accepts at one time.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections from one address; peers have no identity that could be counted instead.
pub const CONNECTIONS_PER_PEER_MAX: usize = 256;
/// How long a new connection may take until it has sent a request.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay without a request after that.
pub const CONNECTION_IDLE_TIME: Duration = Duration::from_secs(120);
/// Streams of one connection that a client has reset and the server has not yet looked at. Builds that are interrupted reset many at once.
pub const STREAM_RESETS_PENDING_MAX: usize = 256;
/// Streams of one connection that the server may reset for what the client did wrong.
pub const STREAM_ERRORS_MAX: usize = 1024;
/// Streams on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// HTTP/2 window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// HTTP/2 window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Targets in one run.
pub const TARGETS_PER_RUN_MAX: usize = 10_000;
/// Cases in one target.
pub const CASES_PER_TARGET_MAX: usize = 1_000_000;
/// Bytes of one case's name.
pub const CASE_NAME_BYTES_MAX: usize = 4096;
/// Bytes of all case names that one shard may put on a command line; Linux stops at 2 MiB with the environment.
pub const SHARD_NAME_BYTES_MAX: usize = 512 * 1024;
/// Cases of one shard.
pub const SHARD_CASES_MAX: usize = 4096;
/// Expected time of one shard above which no case is added.
pub const SHARD_TIME_MAX: Duration = Duration::from_secs(5);
/// Expected time of one shard below which cases are added while there are any.
pub const SHARD_TIME_MIN: Duration = Duration::from_millis(50);
/// Layers of one target.
pub const LAYERS_PER_TARGET_MAX: usize = 32;
/// Runs that wait or are under way at one time.
pub const RUNS_OPEN_MAX: usize = 1000;
/// Runs that a coordinator's ledger remembers; the oldest finished ones go first.
pub const RUNS_KEPT_MAX: u64 = 1000;
/// Bytes of the text by which a client makes a submission repeatable.
pub const RUN_TOKEN_BYTES_MAX: usize = 256;
/// Bytes of a project's name.
pub const PROJECT_NAME_BYTES_MAX: usize = 4096;
/// Durations of one case that history remembers.
pub const HISTORY_DURATIONS_MAX: usize = 8;
/// Cases of which history is kept; those not run for longest go first.
pub const HISTORY_CASES_MAX: u64 = 5_000_000;
/// Reports under closed epochs that are kept as evidence.
pub const FENCED_REPORTS_KEPT_MAX: u64 = 1000;
/// Records that one transaction of the ledger takes.
pub const LEDGER_BATCH_RECORDS_MAX: usize = 4096;
/// Bytes of a ledger that is looked through at every start; a larger one only after a stop out of order.
pub const LEDGER_CHECKED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Events of a run that are read from the ledger at one time for a watcher.
pub const WATCH_PAGE_EVENTS_MAX: usize = 512;
/// Bytes of those events.
pub const WATCH_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Runs in one answer of a list.
pub const RUNS_LISTED_MAX: usize = 1000;
/// How long a submission waits for the first agent that can run it.
pub const AGENT_WAIT: Duration = Duration::from_secs(2);
/// How long an agent's new stream may stay silent before it is closed.
pub const FIRST_REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopping coordinator waits for its connections to end.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Messages that wait for the task that owns the scheduler.
pub const SCHEDULER_INPUTS_MAX: usize = 4096;
/// HTTP/2 headers of one request, in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Silence on a connection after which the server asks whether the peer is still there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the peer may take to answer that.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Wall-clock time of one case unless the user says otherwise.
pub const CASE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// Wall-clock time of one discovery.
pub const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Standard output and error of one environment together, in bytes, unless the target says otherwise.
pub const ENVIRONMENT_OUTPUT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// One file that a program in a sandbox writes, in bytes (`RLIMIT_FSIZE`); holes count.
pub const SANDBOX_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Descriptors of one process in a sandbox (`RLIMIT_NOFILE`).
pub const SANDBOX_DESCRIPTORS_MAX: u64 = 4096;
/// Memory that a process in a sandbox may lock, in bytes (`RLIMIT_MEMLOCK`).
pub const SANDBOX_LOCKED_BYTES_MAX: u64 = 64 * 1024;
/// POSIX message queues of a sandbox, in bytes (`RLIMIT_MSGQUEUE`); what the kernel grants by itself.
pub const SANDBOX_QUEUE_BYTES_MAX: u64 = 819_200;
/// Files and directories in a sandbox's memory.
pub const SANDBOX_NODES_MAX: u64 = 1_000_000;
/// Memory of one environment, in bytes, unless the target says otherwise.
pub const ENVIRONMENT_MEMORY_BYTES_DEFAULT: u64 = 4 * 1024 * 1024 * 1024;
/// Processes and threads of one environment unless the target says otherwise.
pub const ENVIRONMENT_PROCESSES_DEFAULT: u32 = 512;
/// Output of one case that travels inside its report, in bytes; a longer one keeps its head and its tail.
pub const CASE_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Output of all cases of one shard that travels inside its report, in bytes; leaves room for the rest of the report in one message.
pub const SHARD_OUTPUT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// One line of a framework's output, in bytes; the rest of a longer line is dropped.
pub const OUTPUT_LINE_BYTES_MAX: usize = 256 * 1024;
/// A file that a framework reads back from an environment (JUnit XML), in bytes.
pub const RESULT_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One encoded `ActionResult`, in bytes: it travels in reports and answers beside other things.
pub const ACTION_RESULT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Wall-clock time of an action that names none.
pub const ACTION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest wall-clock time that an action may name.
pub const ACTION_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Actions that wait or are under way at one time.
pub const ACTIONS_OPEN_MAX: usize = 100_000;
/// Operations that a coordinator knows at one time; the oldest finished ones go first.
pub const OPERATIONS_MAX: usize = 200_000;
/// How long an operation that is done can be asked for.
pub const OPERATION_KEPT_TIME: Duration = Duration::from_secs(300);
/// Encoded responses of operations that are done and kept, in bytes; the oldest go first, but none before [`OPERATION_KEPT_TIME_MIN`].
pub const OPERATIONS_KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long an operation that is done can be asked for at least, whatever else is kept.
pub const OPERATION_KEPT_TIME_MIN: Duration = Duration::from_secs(60);
/// How long an operation goes on that nobody listens to.
pub const OPERATION_ABANDONED_TIME: Duration = Duration::from_secs(60);
/// Operations in one answer of a list.
pub const OPERATIONS_LISTED_MAX: usize = 1000;
/// Missing inputs that one answer names.
pub const MISSING_INPUTS_NAMED_MAX: usize = 10_000;
/// Standard output or standard error of an action that travels inside its result, in bytes; more is a blob of its own.
pub const ACTION_OUTPUT_INLINE_BYTES_MAX: usize = 16 * 1024;
/// Waiting actions that the fleet's status shows.
pub const WAITING_ACTIONS_SHOWN_MAX: usize = 100;
/// Actions of which a coordinator remembers how they ended last.
pub const ACTIONS_REMEMBERED_MAX: usize = 100_000;
/// Epochs that one record in the ledger reserves for attempts at actions, whose leases are not recorded one by one.
pub const EPOCHS_RESERVED: u64 = 1 << 16;

/// Exclusive groups that one attempt can be in.
pub const EXCLUSIVE_GROUPS_MAX: usize = 16;
/// Patterns of cases with resources of their own that one suite can have.
pub const CASE_PATTERNS_MAX: usize = 16;
/// Tags that one target can ask for.
pub const TAGS_MAX: usize = 32;
/// How long work that takes more than any one slot waits behind work that does not, before an agent and its groups are kept free for it.
pub const CLAIM_WAIT: Duration = Duration::from_secs(1);
/// Slots of one agent.
pub const SLOTS_PER_AGENT_MAX: u32 = 1024;
/// Assignments given to an agent beyond its slots, so that a slot never waits for the network.
pub const PREFETCH_PER_AGENT: u32 = 1;
/// Silence after which an agent's leases run out.
pub const LEASE_TIME: Duration = Duration::from_secs(8);
/// Share of [`LEASE_TIME`] after which a cut-off agent stops its own work, as numerator and denominator.
pub const LEASE_SELF_FENCE: (u32, u32) = (2, 3);
/// How often an agent reports when nothing happens.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two reports that tell of nothing but progress inside attempts: a stage, the next case.
pub const PROGRESS_REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// How long a finished attempt's report may stay unacknowledged on one connection before it is sent again.
pub const REPORT_RESEND_INTERVAL: Duration = Duration::from_secs(3);
/// How long after a closed connection an agent may come back before its work is given to others.
pub const RECONNECT_GRACE: Duration = Duration::from_millis(1000);
/// Share of the agents, as a percentage, that may fall silent within one lease before expiry is held back for one more.
pub const MASS_LOSS_PERCENT: u32 = 50;
/// Faults (other than the agent's loss or work returned) after which a case is given up as the fleet's fault.
pub const FAULTS_PER_CASE_MAX: u8 = 3;
/// Agents lost with a case running after which the case runs alone.
pub const LOSSES_BEFORE_ALONE: u8 = 1;
/// Agents lost with a case running alone after which it is poison.
pub const LOSSES_ALONE_BEFORE_POISON: u8 = 2;
/// Finished attempts that an agent keeps until they are acknowledged.
pub const SPOOL_ATTEMPTS_MAX: usize = 10_000;
/// Agents known to a coordinator at one time.
pub const AGENTS_MAX: usize = 100_000;
/// How long a base may be identified by its directories alone before every file is looked at again.
pub const BASE_FULL_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// A `Tree` message of an output directory, in bytes.
pub const TREE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Depth of a directory tree.
pub const TREE_DEPTH_MAX: usize = 256;
/// Entries of one directory; of a directory whose message fits [`MESSAGE_BYTES_MAX`], files with their digests are fewer.
pub const DIRECTORY_ENTRIES_MAX: usize = 65_536;
/// Files, directories and links of one layer, expanded.
pub const TREE_NODES_MAX: usize = 2_000_000;
/// Arguments and variables of one action's command together.
pub const COMMAND_STRINGS_MAX: usize = 100_000;
/// Bytes of all of them; Linux stops at a quarter of the stack limit, which is 2 MiB unless set otherwise.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Paths that one action may declare as outputs.
pub const OUTPUT_PATHS_MAX: usize = 50_000;
/// One path, in bytes (Linux: `PATH_MAX` without its final NUL).
pub const PATH_BYTES_MAX: usize = 4095;
/// Files, directories and links that one action may put out.
pub const OUTPUT_NODES_MAX: usize = 500_000;
/// Bytes of all files that one action may put out.
pub const OUTPUT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes of small outputs of one action that are kept in memory until they are uploaded; others are copied to files.
pub const OUTPUT_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One name in a directory, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Services of one target.
pub const SERVICES_PER_TARGET_MAX: usize = 16;
/// How long a service may take until it is ready, unless it says otherwise.
pub const SERVICE_READY_TIME_DEFAULT: Duration = Duration::from_secs(60);
/// The longest time that it may say.
pub const SERVICE_READY_TIME_MAX: Duration = Duration::from_secs(3600);
/// The pause between two probes of a service, unless it says otherwise.
pub const PROBE_INTERVAL_DEFAULT: Duration = Duration::from_millis(10);
/// The shortest pause that it may say.
pub const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest one.
pub const PROBE_INTERVAL_MAX: Duration = Duration::from_millis(50);
/// What is kept of a service's log, its end, in bytes.
pub const SERVICE_LOG_BYTES_MAX: usize = 64 * 1024;
/// Lines of a service's log that a fault shows.
pub const SERVICE_LOG_LINES_SHOWN: usize = 20;
/// Sets of services that an agent keeps running for nobody; the one that was used longest ago goes first.
pub const WARM_SERVICES_MAX: usize = 4;
/// How long it keeps one that nobody asks for.
pub const WARM_SERVICES_IDLE_TIME: Duration = Duration::from_secs(300);
/// Data that setups made and that an agent keeps, as a count; the oldest goes first.
pub const SERVICE_DATA_KEPT_MAX: usize = 16;
/// Bytes of the data that one setup may leave.
pub const SERVICE_DATA_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Files, directories and links of it.
pub const SERVICE_DATA_NODES_MAX: usize = 100_000;
/// Bytes of an archive that becomes an image, not compressed.
pub const IMAGE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// What one byte of a compressed archive may become, in bytes; root file systems become two to five.
pub const IMAGE_EXPANSION_RATIO_MAX: u64 = 200;
/// Bytes that a compressed archive may become whatever its own size.
pub const IMAGE_EXPANSION_BYTES_FREE: u64 = 64 * 1024 * 1024;
/// Files outside of a case's own places that a report names.
pub const STRAYS_TOLD_MAX: usize = 20;
/// Files and directories that are looked at for them.
pub const STRAYS_LOOKED_AT_MAX: usize = 10_000;
/// The name of an image, in bytes.
pub const IMAGE_NAME_BYTES_MAX: usize = 128;
/// Images that have a name.
pub const IMAGES_MAX: usize = 1000;
/// The share of a cache's capacity that images with names may take together, as its divisor: what is kept can't be evicted for anything else.
pub const IMAGES_CAPACITY_DIVISOR: u64 = 2;
/// What is kept of an image besides its blobs (variables, programs), in bytes.
pub const IMAGE_CONFIGURATION_BYTES_MAX: usize = 256 * 1024;
/// Layers of an image; as many as Docker takes.
pub const IMAGE_LAYERS_MAX: usize = 127;
/// An index, a manifest or a configuration of an image, in bytes; what registries take at most.
pub const IMAGE_DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Manifests that the indexes of an image layout may name.
pub const IMAGE_MANIFESTS_MAX: usize = 1000;
/// Indexes in indexes.
pub const IMAGE_INDEX_DEPTH_MAX: usize = 4;
/// One header of an archive that has a content (a long name, extended attributes), in bytes.
pub const IMAGE_HEADER_BYTES_MAX: u64 = 1024 * 1024;
