//! Messages across the boundary between process and kernel: system-call entry.
//!
//! Whatever decodes is exactly what encoding makes of it again, so there are no two messages of one meaning and no bit
//! that nobody looked at.

use parakernel_core::{
    abi::{Call, CallError, Codec, Message, Metric},
    control::{Outcome, Request},
};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "abi_message",
    run,
    is_validator: true,
    max_len: 160,
};

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut report = Report::default();
    let message = message(input);
    report.note("request", round_trip::<Request>(&message).is_some());
    report.note("outcome", round_trip::<Outcome>(&message).is_some());
    let number = input.word() >> input.below(64);
    assert!(Call::from_number(number).is_none_or(|call| call as u64 == number));
    assert!(Metric::from_number(number).is_none_or(|metric| metric as u64 == number));
    let is_success = CallError::check(number).is_ok_and(|value| value == number);
    assert_eq!(is_success, number < CallError::FIRST);
    report
}

/// Words as requests and outcomes have them: a kind, a tag, small numbers, handles; some are anything.
fn message(input: &mut Input<'_>) -> Message {
    let mut message = Message::default();
    let is_tagged = u64::from(input.byte() & 1);
    message.words[0] = (1 + input.below(9)) | (is_tagged << 32);
    message.words[1] = is_tagged * input.word();
    let used = 2 + usize::from(input.byte()) % 8;
    for word in message.words.iter_mut().take(used).skip(2) {
        *word = match input.byte() {
            0..0xa0 => input.below(3),
            0xa0..0xd0 => 1 << input.below(32),
            _ => input.word() >> input.below(64),
        };
    }
    message
}

fn round_trip<T: Codec>(message: &Message) -> Option<T> {
    let (tag, value) = T::decode(message)?;
    assert_eq!(
        value.encode(tag).words,
        message.words,
        "another message means the same"
    );
    Some(value)
}
