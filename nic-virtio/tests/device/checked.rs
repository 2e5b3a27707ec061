//! Queues that the kernel checks, and sealed ones, against the model, in both layouts.
