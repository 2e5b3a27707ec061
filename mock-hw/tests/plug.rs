//! Where wires lead.
#![cfg(feature = "serve")]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
};

use parakernel_mock_hw::{
    plug::{Capture, Datagrams, Plug, remove_socket},
    wire::Wire,
};

fn place(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mock-hw-plug-{name}-{}", std::process::id()));
    drop(fs::remove_file(&path));
    path
}

fn receive(plug: &mut dyn Plug) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    let len = plug.receive(&mut buffer).unwrap()?;
    Some(buffer[..len].to_vec())
}

#[test]
fn a_frame_is_a_datagram_in_both_directions() {
    let (one, other) = (place("one"), place("other"));
    let mut here = Datagrams::unix(&one, &other).unwrap();
    // Nobody is at the other end yet: the frame is lost, as on a cable that leads nowhere.
    here.send(&[1; 60]).unwrap();
    let mut there = Datagrams::unix(&other, &one).unwrap();
    assert_eq!(receive(&mut there), None);
    here.send(&[2; 60]).unwrap();
    there.send(&[3; 1514]).unwrap();
    there.send(&[4; 64]).unwrap();
    assert_eq!(receive(&mut there), Some(vec![2; 60]));
    assert_eq!(receive(&mut here), Some(vec![3; 1514]));
    assert_eq!(receive(&mut here), Some(vec![4; 64]));
    assert_eq!(receive(&mut here), None);
    drop((here, there));
    assert!(!one.exists() && !other.exists());
}

#[test]
fn datagrams_over_udp_come_from_the_other_end_only() {
    let free = || {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (one, other) = (free(), free());
    let mut here = Datagrams::udp(one, other).unwrap();
    // Refused by the kernel, some time later; lost all the same.
    here.send(&[1; 60]).unwrap();
    here.send(&[1; 60]).unwrap();
    assert_eq!(receive(&mut here), None);
    let mut there = Datagrams::udp(other, one).unwrap();
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(&[9; 60], one)
        .unwrap();
    there.send(&[2; 60]).unwrap();
    while let Some(frame) = receive(&mut here) {
        assert_eq!(frame, [2; 60]);
    }
}

#[test]
fn only_a_socket_that_was_left_is_removed() {
    let path = place("left");
    fs::write(&path, b"precious").unwrap();
    assert!(remove_socket(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    remove_socket(&path).unwrap();
    drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
    remove_socket(&path).unwrap();
    assert!(!path.exists());
}

/// The frames in a capture, by the format's own description.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    assert_eq!(bytes[20..24], [1, 0, 0, 0]);
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[8..12], rest[12..16]);
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

#[test]
fn a_capture_holds_each_frame_whole() {
    let path = place("capture");
    let mut capture = Capture::create(&path).unwrap();
    let sent = [vec![1; 60], vec![2; 9018], vec![]];
    for frame in &sent {
        capture.record(frame).unwrap();
    }
    drop(capture);
    assert_eq!(frames(&path), sent);
    fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_observed_is_what_passes_and_nothing_before() {
    let wire = Wire::default();
    wire.send(&[1; 60]);
    assert!(wire.take_observed().is_empty());
    wire.observe();
    assert!(wire.take_observed().is_empty());
}
