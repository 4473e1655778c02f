//! Points at which the crash tests end the process.

/// Ends the process at once if `FAILPOINTS` says so, as `kill -9` would: nothing is cleaned up. `NAME=2*off->return` does
/// it at the third passage. Without the feature `failpoints` there is nothing here.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}
pub(crate) use crash_point;
