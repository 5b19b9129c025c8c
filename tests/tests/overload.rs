//! T5.9, the short form: who asks for three times as much as a coordinator can do is told when to come again, and harms nobody for long.
//!
//! How much is done meanwhile depends on who else uses the machine: that figure is in the long form, `load overload`.

use std::time::Duration;

use muster_tests::load::overload::overload;

#[tokio::test(flavor = "multi_thread")]
async fn t5_9_overload_is_refused_and_passes() {
    let result = overload(&std::env::temp_dir(), Duration::from_secs(3)).await;
    println!("goodput {:.2} of the peak; {result:?}", result.goodput_share());
    assert!(result.refuses_well(), "{result:?}");
    assert!(result.overload.succeeded > 0, "{result:?}");
    assert_eq!(result.after.failed_in_all(), 0, "afterwards everything is as before: {result:?}");
    // The budget of 256 MiB, and what allocators and connections keep beside it.
    assert!(result.more_memory < 768 * 1024 * 1024, "{result:?}");
}
