//! Processes for a parakernel, generic over the queue traits.
#![cfg_attr(not(test), no_std)]
