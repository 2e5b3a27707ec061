//! All targets, by what they feed.

use crate::Target;

mod nvme_validator;

/// Every target there is; each has a file of its name in `fuzz_targets/`.
pub const ALL: &[Target] = &[nvme_validator::TARGET];
