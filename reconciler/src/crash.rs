//! Points at which the crash tests abort the process.

/// Aborts the process if `FAILPOINTS` says so, without cleanup, like `kill -9`. `NAME=2*off->return` aborts at the
/// third passage. Without the feature `failpoints` the macro does nothing.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}
pub(crate) use crash_point;
