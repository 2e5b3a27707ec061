//! Where wires lead.
#![cfg(feature = "serve")]
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(unsafe_code, reason = "a thread takes a network of its own")]

extern crate alloc;

use alloc::sync::Arc;
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use std::{
    env, fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use parakernel_mock_hw::{
    plug::{Capture, Datagrams, Plug, Recorded, RecordedFrame, Replay, Tap, remove_socket},
    wire::Wire,
};

fn place(name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("mock-hw-plug-{name}-{}", std::process::id()));
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

/// The file that `capture` wrote, in the other byte order, or with microseconds.
fn header(words: [u32; 6], swapped: bool) -> Vec<u8> {
    let bytes = |word: u32| {
        if swapped {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        }
    };
    words.into_iter().flat_map(bytes).collect()
}

#[test]
fn a_capture_is_read_back_and_by_another_program() {
    let path = place("read-back");
    let mut capture = Capture::create(&path).unwrap();
    let sent = [vec![0xff; 60], vec![2; 9018]];
    for frame in &sent {
        capture.record(frame).unwrap();
    }
    drop(capture);
    let read: Result<Vec<RecordedFrame>, _> = Recorded::open(&path).unwrap().collect();
    let read = read.unwrap();
    assert_eq!([&read[0].bytes, &read[1].bytes], [&sent[0], &sent[1]]);
    assert!(read[0].at <= read[1].at && read[0].at > Duration::from_secs(1_600_000_000));
    match Command::new("tshark").arg("-r").arg(&path).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            let complaints = errors
                .lines()
                .filter(|line| !line.contains("as user \"root\""));
            assert_eq!(complaints.count(), 0, "{errors}");
            assert!(
                output.status.success() && text.lines().count() == 2,
                "{text}"
            );
        }
        Err(error) => println!("not read by tshark: {error}"),
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn captures_of_both_byte_orders_and_units_are_read() {
    for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
        for swapped in [false, true] {
            let mut file = header([magic, 0x0004_0002, 0, 0, 0x4_0000, 1], swapped);
            file.extend(&header([5, 250, 3, 3, 0, 0], swapped)[..16]);
            file.extend([1, 2, 3]);
            let frames: Result<Vec<_>, _> = Recorded::new(&file[..]).unwrap().collect();
            let frame = RecordedFrame {
                at: Duration::new(5, 250 * unit),
                bytes: vec![1, 2, 3],
            };
            assert_eq!(frames.unwrap(), [frame]);
        }
    }
}

#[test]
fn what_is_no_whole_capture_of_ethernet_is_refused_with_its_reason() {
    let good = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1];
    let said = |file: &[u8]| match Recorded::new(file) {
        Err(error) => error.to_string(),
        Ok(frames) => {
            let all: Result<Vec<_>, _> = frames.collect();
            all.unwrap_err().to_string()
        }
    };
    let with = |words: [u32; 4], bytes: usize| {
        let mut file = header(good, false);
        file.extend(&header([words[0], words[1], words[2], words[3], 0, 0], false)[..16]);
        file.resize(file.len() + bytes, 0);
        file
    };
    assert!(said(b"").contains("too short"));
    assert!(said(&header([1, 0, 0, 0, 0, 1], false)).contains("no capture"));
    assert!(said(&header([0x0a0d_0d0a, 0, 0, 0, 0, 1], false)).contains("editcap"));
    let wifi = header([0xa1b2_c3d4, 0, 0, 0, 0, 105], false);
    assert!(said(&wifi).contains("medium 105"));
    assert!(said(&with([0, 0, 60, 100], 60)).contains("frame 1: only 60 of 100"));
    assert!(said(&with([0, 0, 60, 60], 59)).contains("ends in it"));
    assert!(said(&with([0, 0, u32::MAX, u32::MAX], 0)).contains("more than 65536"));
    let mut cut = with([0, 0, 1, 1], 1);
    cut.extend([0; 15]);
    assert!(said(&cut).contains("middle of a header"));
}

#[test]
fn a_replay_keeps_the_gaps_from_when_the_device_takes_frames() {
    let path = place("replay");
    let mut file = header([0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1], false);
    for (milliseconds, frame) in [(0, 1), (0, 2), (60, 3)] {
        file.extend(&header([9, 1000 * milliseconds, 60, 60, 0, 0], false)[..16]);
        file.extend([frame; 60]);
    }
    fs::write(&path, file).unwrap();
    let out = place("replay-out");
    let open = Arc::new(AtomicBool::new(false));
    let is_open = open.clone();
    let mut replay = Replay::new(
        Some(Recorded::open(&path).unwrap()),
        Some(Capture::create(&out).unwrap()),
        move || is_open.load(Ordering::Relaxed),
    )
    .unwrap();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(receive(&mut replay), None);
    open.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 && began.elapsed() < Duration::from_secs(5) {
        let mut files = [rustix::event::PollFd::from_borrowed_fd(
            replay.file(),
            rustix::event::PollFlags::IN,
        )];
        let second = rustix::event::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut files, Some(&second)).unwrap();
        assert_eq!(ready, 1, "nothing wakes up who waits for the next frame");
        if let Some(frame) = receive(&mut replay) {
            assert_eq!(frame, [[1; 60], [2; 60], [3; 60]][times.len()]);
            times.push(began.elapsed());
        }
    }
    // However late somebody looks: the third one is never there before its time.
    assert!(times[2] >= Duration::from_millis(60), "{times:?}");
    assert_eq!(receive(&mut replay), None);
    replay.send(&[7; 64]).unwrap();
    drop(replay);
    assert_eq!(frames(&out), [vec![7; 64]]);
    fs::remove_file(&path).unwrap();
    fs::remove_file(&out).unwrap();
}

/// The kernel answers ARP over a tap: a frame each way. The tap is made in a network namespace of this thread's own.
#[test]
fn a_tap_is_a_wire_to_the_kernel() {
    let skip = |why: &str| println!("the tap was not tried: {why}");
    let programs = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join("ip").is_file());
    if !programs {
        return skip("there is no program `ip`");
    }
    if !Path::new("/dev/net/tun").exists() {
        return skip("there is no /dev/net/tun");
    }
    let tried = thread::spawn(|| {
        // SAFETY: this changes no memory and no descriptors, only the network of this thread, which ends here.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
        let mut tap = Tap::open("mockhw0")?;
        for words in ["addr add 10.77.0.1/24 dev mockhw0", "link set mockhw0 up"] {
            let status = Command::new("ip").args(words.split(' ')).status()?;
            assert!(status.success(), "ip {words}");
        }
        // Who has 10.77.0.1? Tell 02:00:00:00:00:09, 10.77.0.9.
        let mut ask = vec![0xff; 6];
        ask.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        ask.extend([
            2, 0, 0, 0, 0, 9, 10, 77, 0, 9, 0, 0, 0, 0, 0, 0, 10, 77, 0, 1,
        ]);
        ask.resize(60, 0);
        tap.send(&ask)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            match receive(&mut tap) {
                Some(frame) if frame[12..14] == [8, 6] => return Ok(frame),
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(std::io::Error::other("the kernel did not answer"))
    });
    match tried.join().unwrap() {
        Ok(answer) => {
            assert_eq!(answer[20..22], [0, 2]);
            assert_eq!(answer[28..32], [10, 77, 0, 1]);
            assert_eq!(answer[..6], [2, 0, 0, 0, 0, 9]);
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            skip("this user may not make one");
        }
        Err(error) => panic!("{error}"),
    }
}
