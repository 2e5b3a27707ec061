//! The NVMe model, driven register by register and command by command, with numbers from the specification.
#![expect(
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test; numbers are cut to the width of the field that they go to"
)]

#[path = "nvme/host.rs"]
mod host;

#[cfg(feature = "proptest")]
#[path = "nvme/properties.rs"]
mod properties;

use core::time::Duration;

use host::{Host, MIB};
use parakernel_core::mmio::Registers;
use parakernel_mock_hw::{
    World,
    fault::{Fault, When},
    nvme::{Config, NamespaceConfig, Status, StatusRule},
};

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(31) ^ (n >> 8) as u8 ^ seed)
        .collect()
}

/// A host with one I/O queue pair of 16 entries, id 1.
fn ready(seed: u64, config: Config) -> Host {
    let mut host = Host::new(&World::new(seed), config);
    host.enable();
    assert_eq!(host.create_pair(1, 16), (0, 0));
    host
}

#[test]
fn identify_tells_sizes_limits_and_active_namespaces() {
    let namespaces = vec![
        NamespaceConfig {
            blocks: 1000,
            block_len: 512,
        },
        NamespaceConfig {
            blocks: 77,
            block_len: 4096,
        },
    ];
    let mut host = Host::new(
        &World::new(1),
        Config {
            namespaces,
            ..host::config()
        },
    );
    host.enable();
    let controller = host.identify(1, 0);
    assert_eq!(controller[77], 5);
    assert_eq!(controller[512..514], [0x66, 0x44]);
    assert_eq!(controller[516], 2);
    let first = host.identify(0, 1);
    assert_eq!(u64::from_le_bytes(first[0..8].try_into().unwrap()), 1000);
    assert_eq!((first[26], first[130]), (0, 9));
    let second = host.identify(0, 2);
    assert_eq!((second[26], second[134]), (1, 12));
    assert_eq!(
        host.identify(2, 0)[..12],
        [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(host.identify(2, 1)[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.identify(3, 2)[..4], [1, 8, 0, 0]);
    host.trace().assert_clean();
}

#[test]
fn data_of_every_length_and_offset_arrives_by_prps() {
    let mut host = ready(2, host::config());
    for (n, (offset, blocks)) in [
        (0, 1),
        (0, 8),
        (512, 8),
        (512, 15),
        (4092, 1),
        (0, 256),
        (2048, 256),
    ]
    .iter()
    .enumerate()
    {
        let bytes = pattern(n as u8, blocks * 512);
        let lba = 300 * n as u64;
        assert_eq!(host.write(1, lba, &bytes, *offset), 0, "{offset} {blocks}");
        assert_eq!(
            host.nvme.read_blocks(1, lba, *blocks as u64).unwrap(),
            bytes
        );
        let (status, back) = host.read(1, lba, bytes.len(), *offset);
        assert_eq!(status, 0);
        assert!(back == bytes, "{offset} {blocks}");
    }
    host.trace().assert_clean();
}

#[test]
fn a_transfer_above_mdts_and_a_range_outside_the_namespace_are_refused() {
    let mut host = ready(3, host::config());
    assert_eq!(host.write(1, 0, &pattern(0, 257 * 512), 0), 0x02);
    assert_eq!(host.write(1, 65_535, &pattern(0, 1024), 0), 0x80);
    assert_eq!(host.write(1, u64::MAX, &pattern(0, 512), 0), 0x80);
    assert_eq!(host.write(2, 0, &pattern(0, 512), 0), 0x0b);
    assert_eq!(host.write(1, 65_535, &pattern(0, 512), 0), 0);
}

#[test]
fn wrong_prps_are_refused() {
    let mut host = ready(4, host::config());
    let page = host.page();
    let io = |host: &mut Host, prp1, prp2, blocks: u32| {
        host.io(0x02, 1, |command| {
            command[6..8].copy_from_slice(&host::two(prp1));
            command[8..10].copy_from_slice(&host::two(prp2));
            command[12] = blocks - 1;
        })
    };
    assert_eq!(io(&mut host, page + 2, 0, 1), 0x13);
    assert_eq!(io(&mut host, page, page + 4096 + 8, 9), 0x13);
    assert_eq!(io(&mut host, page, page + 4, 17), 0x13);
    assert_eq!(host.trace().violations().len(), 3);
    // PRP2 = 0 is an address like any other: it escapes, is blocked, and the transfer fails.
    assert_eq!(io(&mut host, page, 0, 9), 0x04);
    assert_eq!(host.memory.escapes().len(), 1);
}

#[test]
fn sgls_carry_data_and_wrong_ones_are_refused() {
    let mut host = ready(5, host::config());
    let bytes = pattern(9, 1024);
    assert!(host.nvme.write_blocks(1, 4, &bytes));
    let page = host.page();
    // A last segment at `page + 2048` with a block, a bit bucket and a block.
    let describe = |address: u64, len: u32, kind: u8| {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[15] = kind << 4;
        raw
    };
    let segment: Vec<u8> = [
        describe(page, 100, 0),
        describe(0, 24, 1),
        describe(page + 100, 900, 0),
    ]
    .concat();
    host.poke(page + 2048, &segment);
    let read = |host: &mut Host, sgl: [u8; 16]| {
        host.io(0x02, 1, |command| {
            command[0] |= 0x4000;
            for (n, dword) in sgl.chunks_exact(4).enumerate() {
                command[6 + n] = u32::from_le_bytes(dword.try_into().unwrap());
            }
            command[10] = 4;
            command[12] = 1;
        })
    };
    assert_eq!(read(&mut host, describe(page + 2048, 48, 3)), 0);
    let seen = host.peek(page, 1000);
    assert_eq!(seen[..100], bytes[..100]);
    assert_eq!(seen[100..], bytes[124..]);
    assert_eq!(read(&mut host, describe(page, 1024, 0)), 0);
    host.trace().assert_clean();

    assert_eq!(read(&mut host, describe(page, 1000, 0)), 0x0f);
    assert_eq!(read(&mut host, describe(page, 1025, 0)), 0x0f);
    assert_eq!(read(&mut host, describe(page + 2048, 40, 3)), 0x0d);
    assert_eq!(read(&mut host, describe(page, 1024, 4)), 0x11);
    host.poke(
        page + 2048,
        &[describe(page + 2048, 16, 2), describe(page, 1024, 0)].concat(),
    );
    assert_eq!(read(&mut host, describe(page + 2048, 32, 2)), 0x0d);
    // A segment that leads to itself ends.
    host.poke(page + 2048, &describe(page + 2048, 16, 2));
    assert_eq!(read(&mut host, describe(page + 2048, 16, 2)), 0x0e);
}

#[test]
fn queues_are_created_and_deleted_with_the_right_complaints() {
    let mut host = Host::new(
        &World::new(6),
        Config {
            queue_pairs: 4,
            vectors: 2,
            ..host::config()
        },
    );
    host.enable();
    let base = host.page();
    let page = host::two(base);
    let other = host::two(base + 8);
    // Opcode, dwords 10 and 11, PRP1, expected status.
    let commands = [
        (5, 0x000f_0000, 1, page, 0x101),
        (5, 0x000f_0005, 1, page, 0x101),
        (5, 0x0000_0001, 1, page, 0x102),
        (5, 0x0400_0001, 1, page, 0x102),
        (5, 0x000f_0001, 0, page, 0x02),
        (5, 0x000f_0001, 1, other, 0x13),
        (5, 0x000f_0001, 0x0002_0003, page, 0x108),
        (1, 0x000f_0001, 0x0001_0001, page, 0x100),
        (1, 0x000f_0001, 0x0000_0001, page, 0x101),
        (5, 0x000f_0001, 0x0001_0003, page, 0),
        (5, 0x000f_0001, 0x0001_0003, page, 0x101),
        (1, 0x000f_0004, 0x0001_0001, page, 0),
        (4, 1, 0, page, 0x10c),
        (4, 0, 0, page, 0x101),
        (0, 1, 0, page, 0x101),
        (0, 4, 0, page, 0),
        (4, 1, 0, page, 0),
    ];
    for (opcode, dword10, dword11, prp, expected) in commands {
        let status = host.admin(opcode, |command| {
            command[6..8].copy_from_slice(&prp);
            (command[10], command[11]) = (dword10, dword11);
        });
        assert_eq!(status, expected, "{opcode} {dword10:#x} {dword11:#x}");
    }
    assert_eq!(host.nvme.counts().completion_queues, 1);
}

#[test]
fn number_of_queues_is_granted_up_to_65_535_and_only_at_first() {
    let config = Config {
        queue_pairs: 65_535,
        ..host::config()
    };
    let mut host = Host::new(&World::new(7), config);
    host.enable();
    let set =
        |host: &mut Host, value| host.admin(9, |command| (command[10], command[11]) = (7, value));
    assert_eq!(set(&mut host, 0xffff_0000), 0x02);
    assert_eq!(set(&mut host, 0xfffe_fffe), 0);
    assert_eq!(host.last_result, 0xfffe_fffe);
    assert_eq!(host.create_pair(65_535, 4), (0, 0));
    assert_eq!(set(&mut host, 0x0001_0001), 0x0c);
    host.trace().assert_clean();
}

#[test]
fn completions_come_out_of_order_and_each_once() {
    let mut out_of_order = false;
    for seed in 0..20 {
        let mut host = ready(seed, host::config());
        let ids = host.read_many(1, 12);
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (100..112).collect::<Vec<u16>>());
        out_of_order |= sorted != ids;
        host.trace().assert_clean();
    }
    assert!(out_of_order);
}

#[test]
fn the_ring_wraps_and_the_phase_flips_many_times() {
    let mut host = ready(8, host::config());
    for n in 0..100_u64 {
        let bytes = pattern(n as u8, 512);
        assert_eq!(host.write(1, n, &bytes, 0), 0);
    }
    assert_eq!(host.nvme.read_blocks(1, 99, 1).unwrap(), pattern(99, 512));
    host.trace().assert_clean();
}

#[test]
fn flush_zeroes_compare_and_deallocate_do_what_they_say() {
    let mut host = ready(9, host::config());
    let bytes = pattern(1, 4 * 512);
    assert_eq!(host.write(1, 0, &bytes, 0), 0);
    assert_eq!(host.io(0x00, u32::MAX, |_| {}), 0);
    assert_eq!(host.compare(1, 0, &bytes), 0);
    assert_eq!(
        host.io(0x08, 1, |command| (command[10], command[12]) = (1, 0)),
        0
    );
    assert_eq!(host.nvme.read_blocks(1, 1, 1).unwrap(), [0; 512]);
    assert_eq!(host.compare(1, 0, &bytes), 0x285);
    assert_eq!(host.deallocate(1, &[(2, 1), (3, 1)]), 0);
    assert_eq!(host.nvme.read_blocks(1, 2, 2).unwrap(), [0; 1024]);
    assert_eq!(host.nvme.read_blocks(1, 0, 1).unwrap(), bytes[..512]);
    assert_eq!(host.deallocate(1, &[(65_535, 2)]), 0x80);
    host.nvme.power_cycle();
    assert_eq!(host.nvme.read_blocks(1, 0, 4).unwrap(), bytes);
}

#[test]
fn a_doorbell_that_breaks_the_rules_is_reported() {
    let mut host = ready(10, host::config());
    host.hold_event_request();
    for (offset, value) in [(0x1008, 16), (0x1008, 0), (0x100c, 1), (0x1000 + 8 * 5, 1)] {
        host.bar.write32(offset, value);
    }
    let violations = host.trace().violations();
    assert_eq!(violations.len(), 4, "{violations:?}");
    // The first is told to the host, the others wait until the error log is read.
    let (status, result) = host.take_admin();
    assert_eq!((status, result), (0, 0x0001_0100));
    host.hold_event_request();
    host.settle();
    assert!(host.try_take_admin().is_none());
    let log = host.log_page(1, 64);
    assert_eq!(log.len(), 64);
    assert_eq!(host.take_admin(), (0, 0x0001_0100));
}

#[test]
fn namespace_changes_are_told_and_listed() {
    let mut host = ready(11, host::config());
    assert_eq!(
        host.admin(9, |command| (command[10], command[11]) = (0x0b, 0x100)),
        0
    );
    host.hold_event_request();
    host.nvme.change_namespace(
        3,
        Some(NamespaceConfig {
            blocks: 5,
            block_len: 4096,
        }),
    );
    assert_eq!(host.take_admin(), (0, 0x0004_0002));
    assert_eq!(host.log_page(4, 4096)[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.log_page(4, 4096)[..4], [0; 4]);
}

fn format(host: &mut Host, namespace: u32, dword: u32) -> u32 {
    host.call(0, 0x80, namespace, |command| command[10] = dword)
}

#[test]
fn a_format_that_there_is_not_is_refused_and_changes_nothing() {
    let mut host = ready(13, host::config());
    assert_eq!(host.write(1, 8, &pattern(1, 4096), 0), 0);
    let metadata = 1 | 1 << 4;
    let cryptographic_erase = 1 | 2 << 9;
    for (namespace, dword, status) in [
        (1, 2, 0x10a),
        (1, metadata, 0x10a),
        (1, cryptographic_erase, 0x02),
        (2, 1, 0x0b),
    ] {
        assert_eq!(format(&mut host, namespace, dword), status, "{dword:#x}");
    }
    assert_eq!(host.nvme.read_blocks(1, 8, 8).unwrap(), pattern(1, 4096));
}

#[test]
fn a_format_changes_the_blocks_and_leaves_nothing_in_them() {
    let mut host = ready(14, host::config());
    assert_eq!(host.identify(1, 0)[256] & 2, 2);
    assert_eq!(host.write(1, 8, &pattern(1, 4096), 0), 0);
    assert_eq!(format(&mut host, 1, 1), 0);
    let namespace = host.identify(0, 1);
    assert_eq!(namespace[..8], 8192_u64.to_le_bytes());
    assert_eq!((namespace[26], namespace[134]), (1, 12));
    assert_eq!(host.nvme.read_blocks(1, 1, 1).unwrap(), [0; 4096]);
    let page = host.page();
    for (block, status) in [(8191, 0), (8192, 0x80)] {
        let written = host.io(0x01, 1, |command| {
            command[6..8].copy_from_slice(&host::two(page));
            command[10] = block;
        });
        assert_eq!(written, status, "block {block}");
    }
    // All namespaces, user data erased, back to small blocks.
    assert_eq!(format(&mut host, u32::MAX, 1 << 9), 0);
    assert_eq!(host.identify(0, 1)[..8], 65_536_u64.to_le_bytes());
    assert_eq!(host.nvme.read_blocks(1, 65_528, 8).unwrap(), [0; 4096]);
}

#[test]
fn a_namespace_with_commands_in_flight_is_not_formatted() {
    let mut refused = 0;
    for seed in 0..40 {
        let mut host = ready(seed, host::config());
        let (page, bytes) = (host.page(), pattern(3, 4096));
        host.poke(page, &bytes);
        let write = host.begin(1, 0x01, 1, |command| {
            command[6..8].copy_from_slice(&host::two(page));
            command[12] = 7;
        });
        let formatted = host.call(0, 0x80, 1, |command| command[10] = 0);
        let (id, written, _) = host.wait(1);
        assert_eq!((id, written), (write, 0), "seed {seed}");
        match formatted {
            0x0c => {
                refused += 1;
                let kept = host.nvme.read_blocks(1, 0, 8).unwrap();
                assert_eq!(kept, bytes, "seed {seed}");
            }
            status => assert_eq!(status, 0, "seed {seed}"),
        }
    }
    assert!(refused > 0);
}

#[test]
fn shadow_doorbells_replace_the_registers() {
    let mut host = ready(12, host::config());
    host.use_shadow_doorbells();
    for n in 0..40_u64 {
        let bytes = pattern(n as u8, 512);
        assert_eq!(host.write(1, n, &bytes, 0), 0);
        assert_eq!(host.nvme.read_blocks(1, n, 1).unwrap(), bytes);
    }
    host.trace().assert_clean();
}

#[test]
fn a_reset_ends_all_transfers_before_ready_clears_and_keeps_nothing() {
    for seed in 0..20 {
        let mut host = ready(seed, host::config());
        host.submit_reads(1, 8);
        for _ in 0..seed {
            host.world.step();
        }
        host.bar.write32(0x14, 0);
        while host.bar.read32(0x1c) & 1 == 1 {
            host.world.run_for(Duration::from_micros(1));
        }
        host.end_lease();
        host.settle();
        assert!(host.memory.escapes().is_empty());
        assert_eq!(host.nvme.counts().submission_queues, 0);
        host.enable_again();
        assert_eq!(host.create_pair(1, 16), (0, 0));
    }
}

#[test]
fn deleting_a_queue_ends_its_transfers() {
    for seed in 0..50 {
        let mut host = ready(seed, host::config());
        host.submit_reads(1, 8);
        for _ in 0..seed {
            host.world.step();
        }
        assert_eq!(host.admin(0, |command| command[10] = 1), 0);
        host.end_lease();
        host.settle();
        assert!(
            host.memory.escapes().is_empty(),
            "seed {seed}: {:?}",
            host.memory.escapes()
        );
    }
}

#[test]
fn shutdown_completes_and_flushes() {
    let mut host = ready(13, host::config());
    assert_eq!(host.write(1, 0, &pattern(3, 512), 0), 0);
    let cc = host.bar.read32(0x14);
    host.bar.write32(0x14, cc | 0x4000);
    assert_eq!(host.bar.read32(0x1c) & 0xc, 0x4);
    host.world.run_for(Duration::from_millis(10));
    assert_eq!(host.bar.read32(0x1c) & 0xc, 0x8);
    host.nvme.power_cycle();
    assert_eq!(host.nvme.read_blocks(1, 0, 1).unwrap(), pattern(3, 512));
}

#[test]
fn injected_faults_show_and_are_counted() {
    let mut host = ready(14, host::config());
    let faults = host.nvme.faults();
    let status = Status {
        kind: 2,
        code: 0x81,
        do_not_retry: false,
    };
    host.nvme.fail_next(StatusRule {
        queue: Some(1),
        opcode: Some(2),
        status,
        count: 1,
    });
    assert_eq!(host.read(1, 0, 512, 0).0, 0x281);
    assert_eq!(host.read(1, 0, 512, 0).0, 0);
    faults.inject(Fault::IommuFault, When::After(1));
    assert_eq!(host.read(1, 0, 512, 0).0, 0x04);
    faults.inject(Fault::FatalStatus, When::NEXT);
    host.settle();
    assert_eq!(host.bar.read32(0x1c) & 3, 2);
    host.nvme.remove();
    assert_eq!(host.bar.read32(0x1c), u32::MAX);
    assert_eq!(host.nvme.config_space().read16(0), u16::MAX);
    assert_eq!(faults.total().activated, 2);
}

#[test]
fn transfers_larger_than_one_prp_list_page_follow_the_chain() {
    let config = Config {
        transfer_exponent: 10,
        ..host::config()
    };
    let mut host = ready(15, config);
    // 768 entries in two lists, then exactly as many as one list holds, and one more.
    for (offset, len) in [(4, 3 * MIB), (0, 2 * MIB + 4096), (0, 2 * MIB + 8192)] {
        let bytes = pattern(5, len);
        assert_eq!(host.write(1, 0, &bytes, offset), 0);
        assert!(host.nvme.read_blocks(1, 0, len as u64 / 512).unwrap() == bytes);
    }
    host.trace().assert_clean();
}

#[test]
fn every_fault_but_a_bad_length_takes_effect() {
    for fault in Fault::ALL {
        let mut host = ready(3, host::config());
        host.use_interrupts();
        let faults = host.nvme.faults();
        let admin = matches!(fault, Fault::AdminTimeout | Fault::AdminWrongId);
        faults.inject(fault, When::NEXT);
        if fault == Fault::SlowReady {
            host.bar.write32(0x14, 0);
            host.world.run_for(Duration::from_millis(2));
            host.bar.write32(0x14, 0x0046_0001);
        } else if admin {
            host.hold_event_request();
            host.submit_identify();
        } else {
            host.submit_reads(1, 3);
        }
        host.settle();
        let expected = u64::from(fault != Fault::BadLength);
        assert_eq!(faults.count(fault).activated, expected, "{fault:?}");
    }
}

#[test]
fn interrupts_are_coalesced_by_count_and_by_time() {
    let mut host = ready(16, host::config());
    host.use_interrupts();
    let interrupts = host.world.interrupts();
    let on_queue = |interrupts: &parakernel_mock_hw::interrupt::Interrupts| {
        interrupts
            .take_all()
            .iter()
            .filter(|message| message.vector == 1)
            .count()
    };
    host.read_many(1, 6);
    assert_eq!(on_queue(&interrupts), 6);
    // Up to 4 completions, or 100 us.
    assert_eq!(
        host.admin(9, |command| (command[10], command[11]) = (8, 0x0103)),
        0
    );
    host.submit_reads(1, 6);
    host.settle();
    assert_eq!(on_queue(&interrupts), 1);
    host.world.run_for(Duration::from_micros(200));
    assert_eq!(on_queue(&interrupts), 1);
    host.collect(1, 6);
    // Not for a vector that is excepted.
    assert_eq!(
        host.admin(9, |command| (command[10], command[11]) = (9, 0x0001_0001)),
        0
    );
    host.read_many(1, 3);
    assert_eq!(on_queue(&interrupts), 3);
    host.trace().assert_clean();
}

#[test]
fn an_aborted_command_completes_once_and_says_so() {
    let mut aborted = 0;
    for seed in 0..40 {
        let mut host = ready(seed, host::config());
        host.submit_reads(1, 8);
        host.world.step();
        for id in 100..108_u32 {
            assert_eq!(host.admin(8, |command| command[10] = 1 | id << 16), 0);
            aborted += u32::from(host.last_result & 1 == 0);
        }
        let mut ids = host.collect_any(1, 8);
        ids.sort_unstable();
        assert_eq!(ids, (100..108).collect::<Vec<u16>>());
        assert_eq!(host.admin(8, |command| command[10] = 1 | 100 << 16), 0);
        assert_eq!(host.last_result & 1, 1);
        host.trace().assert_clean();
    }
    assert!(aborted > 20, "{aborted}");
}

#[test]
fn larger_pages_and_doorbell_strides_work() {
    let config = Config {
        stride_exponent: 10,
        queue_pairs: 8,
        ..host::config()
    };
    let mut host = Host::with_geometry(&World::new(17), config, 2);
    host.enable();
    assert_eq!(host.create_pair(1, 16), (0, 0));
    for (n, (offset, blocks)) in [(0, 32), (16_384 - 512, 2), (8192, 64), (4, 200)]
        .into_iter()
        .enumerate()
    {
        let bytes = pattern(n as u8, blocks * 512);
        assert_eq!(host.write(1, 0, &bytes, offset), 0);
        assert!(host.read(1, 0, bytes.len(), offset) == (0, bytes));
    }
    host.trace().assert_clean();
}

#[test]
fn a_full_completion_queue_waits_for_its_head_with_and_without_shadow_doorbells() {
    for shadow in [false, true] {
        let mut host = ready(18, host::config());
        if shadow {
            host.use_shadow_doorbells();
        }
        // 16 entries hold 15 completions; the 16 commands come in two batches.
        host.submit_reads(1, 15);
        host.settle();
        host.submit_reads(1, 1);
        let steps = host.world.settle(100_000);
        assert!(steps < 1000, "the controller spins");
        assert_eq!(host.collect(1, 16).len(), 16);
        host.trace().assert_clean();
    }
}

#[test]
fn health_and_features_are_told() {
    let mut host = ready(19, host::config());
    host.write(1, 0, &pattern(0, 512 * 40), 0);
    host.read(1, 0, 512, 0);
    let health = host.log_page(2, 512);
    assert_eq!(
        (health[32], health[48], health[64], health[80]),
        (1, 1, 1, 1)
    );
    let get = |host: &mut Host, feature: u32| {
        assert_eq!(host.admin(0x0a, |command| command[10] = feature), 0);
        host.last_result
    };
    assert_eq!(get(&mut host, 7), 0x003f_003f);
    assert_eq!(get(&mut host, 6), 1);
    assert_eq!(
        host.admin(9, |command| (command[10], command[11]) = (6, 0)),
        0
    );
    assert_eq!(get(&mut host, 6), 0);
    assert_eq!(host.admin(0x0a, |command| command[10] = 0x0107), 0x02);
    host.trace().assert_clean();
    assert_eq!(host.admin(0x0a, |command| command[10] = 0x10), 0x02);
    assert_eq!(host.trace().left_out().len(), 1);
}

#[test]
fn event_requests_are_held_up_to_the_limit() {
    let mut host = ready(20, host::config());
    for _ in 0..4 {
        host.hold_event_request();
    }
    assert!(host.try_take_admin().is_none());
    host.hold_event_request();
    assert_eq!(host.take_admin(), (0x105, 0));
}

#[test]
fn rules_about_registers_are_enforced() {
    let mut host = ready(21, host::config());
    let cases: [fn(&Host); 7] = [
        |host| host.bar.write32(0x24, 0),
        |host| host.bar.write64(0x00, 0),
        |host| host.bar.write32(0x14, 0x0046_0081),
        |host| host.bar.write8(0x14, 1),
        |host| assert_eq!(host.bar.read32(0x1000), 0),
        |host| host.bar.write64(0x1008, 1),
        |host| {
            host.bar.write32(0x14, 0);
            host.bar.write32(0x14, 0x0046_0001);
        },
    ];
    let mut seen = 0;
    for (n, case) in cases.iter().enumerate() {
        case(&host);
        let now = host.trace().violations().len();
        assert!(now > seen, "case {n}");
        seen = now;
    }
    host.world.run_for(Duration::from_millis(10));
    host.enable_again();
}

#[test]
fn a_seed_replays_every_transfer() {
    let run = |seed| {
        let mut host = ready(seed, host::config());
        host.memory.keep_log(100_000);
        let ids = host.read_many(1, 12);
        let log: Vec<_> = host
            .memory
            .log()
            .iter()
            .map(|dma| (dma.address, dma.len, dma.at))
            .collect();
        (ids, log, host.world.now())
    };
    assert!(run(5) == run(5));
    assert!(run(5) != run(6));
}

#[test]
fn a_command_id_in_flight_cannot_be_used_again() {
    let mut host = ready(22, host::config());
    host.submit_reads(1, 4);
    host.submit_reads(1, 4);
    let mut statuses: Vec<u32> = (0..8).map(|_| host.wait(1).1).collect();
    statuses.sort_unstable();
    assert_eq!(statuses[..4], [0; 4]);
    assert!(statuses[4..].contains(&0x03), "{statuses:?}");
    assert!(!host.trace().violations().is_empty());
}

#[test]
fn transfers_go_on_until_the_controller_is_not_ready() {
    let mut late = 0;
    for seed in 0..20 {
        let mut host = ready(seed, host::config());
        host.submit_reads(1, 8);
        for _ in 0..12 {
            host.world.step();
        }
        host.bar.write32(0x14, 0);
        let disabled = host.world.now();
        host.settle();
        late += host
            .memory
            .log()
            .iter()
            .filter(|dma| dma.at > disabled)
            .count();
    }
    assert!(late > 20, "{late}");
}

#[test]
fn a_forced_write_survives_and_another_does_not() {
    let mut host = ready(23, host::config());
    for (lba, flags) in [(0, 0), (1, 1 << 30)] {
        let page = host.page();
        host.poke(page, &pattern(9, 512));
        let status = host.io(0x01, 1, |command| {
            command[6..8].copy_from_slice(&host::two(page));
            (command[10], command[12]) = (lba, flags);
        });
        assert_eq!(status, 0);
    }
    host.nvme.power_cycle();
    assert_eq!(host.nvme.read_blocks(1, 0, 1).unwrap(), [0; 512]);
    assert_eq!(host.nvme.read_blocks(1, 1, 1).unwrap(), pattern(9, 512));
}

#[test]
fn a_link_that_flaps_leaves_the_controller_as_after_power_up() {
    let mut host = ready(24, host::config());
    host.nvme.faults().inject(Fault::LinkFlap, When::NEXT);
    host.settle();
    assert_eq!(host.bar.read32(0x1c), u32::MAX);
    host.world.run_for(Duration::from_millis(2));
    assert_eq!(host.nvme.config_space().read16(0x04), 0);
    host.nvme.config_space().enable();
    assert_eq!(host.bar.read32(0x14), 0);
    host.enable_again();
    assert_eq!(host.create_pair(1, 16), (0, 0));
    assert_eq!(host.read(1, 0, 512, 0).0, 0);
}
