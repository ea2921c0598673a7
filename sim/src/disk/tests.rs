use cairn_node::disk::{Disk, Open};

use super::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new("d1", 1, &Stream::new(seed))
}

fn put(mount: &Mount, path: &str, bytes: &[u8]) {
    let file = mount.open(path, Open::Create).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_power_cut() {
    for seed in 0..200 {
        let disk = disk(seed);
        let mount = disk.mount();
        mount.create_dir("data").unwrap();
        mount.sync_dir("").unwrap();
        put(&mount, "data/a.tmp", &[7; 5000]);
        mount.rename("data/a.tmp", "data/a").unwrap();
        mount.sync_dir("data").unwrap();
        disk.crash(Crash::Power);
        assert_eq!(disk.paths(), ["data/a"]);
        assert_eq!(disk.peek("data/a").unwrap(), [7; 5000]);
    }
}

#[test]
fn power_cut_loses_tears_and_keeps_unsynced_bytes() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let disk = disk(seed);
        let mount = disk.mount();
        put(&mount, "a", &[1; 8192]);
        mount.sync_dir("").unwrap();
        let file = mount.open("a", Open::Write).unwrap();
        file.write_at(0, &[2; 8192]).unwrap();
        disk.crash(Crash::Power);
        let bytes = disk.peek("a").unwrap();
        assert!(bytes.iter().all(|byte| *byte == 1 || *byte == 2));
        match bytes.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            8192 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 30 && kept > 30 && torn > 30, "{lost} {kept} {torn}");
}

#[test]
fn unsynced_names_survive_as_a_prefix_in_order() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk(seed);
        let mount = disk.mount();
        for name in ["a", "b", "c"] {
            put(&mount, name, b"x");
        }
        disk.crash(Crash::Power);
        seen.insert(disk.paths().concat());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "a", "ab", "abc"]);
}

#[test]
fn rename_between_directories_never_loses_or_doubles_the_file() {
    for seed in 0..200 {
        let disk = disk(seed);
        let mount = disk.mount();
        mount.create_dir("tmp").unwrap();
        mount.create_dir("data").unwrap();
        mount.sync_dir("").unwrap();
        put(&mount, "tmp/a", b"x");
        mount.sync_dir("tmp").unwrap();
        mount.rename("tmp/a", "data/a").unwrap();
        if seed % 2 == 0 {
            mount.sync_dir("data").unwrap();
        }
        disk.crash(Crash::Power);
        assert_eq!(disk.paths().len(), 1, "seed {seed}: {:?}", disk.paths());
        assert!(seed % 2 == 1 || disk.paths() == ["data/a"]);
    }
}

#[test]
fn job_in_flight_keeps_a_prefix_and_its_sync_counts_only_inside_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = disk(seed);
        let mount = disk.mount();
        let job = disk.begin_job();
        put(&mount, "a", b"new");
        mount.sync_dir("").unwrap();
        disk.end_job();
        if seed % 3 == 0 {
            disk.settle(job);
        }
        disk.crash(if seed % 2 == 0 { Crash::Power } else { Crash::Kill });
        let bytes = disk.peek("a");
        assert!(seed % 3 != 0 || bytes.as_deref() == Some(b"new"));
        seen.insert(bytes);
    }
    // Missing, empty, torn, complete.
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn sync_carries_what_another_running_job_did_before_it_in_that_jobs_order() {
    for seed in 0..200 {
        let disk = disk(seed);
        let mount = disk.mount();
        let slow = disk.begin_job();
        put(&mount, "a.tmp", b"whole");
        mount.rename("a.tmp", "a").unwrap();
        disk.end_job();
        let quick = disk.begin_job();
        mount.sync_dir("").unwrap();
        disk.end_job();
        disk.settle(quick);
        disk.crash(Crash::Power);
        assert_eq!(disk.peek("a").as_deref(), Some(&b"whole"[..]), "seed {seed}");
        disk.settle(slow);
    }
}

#[test]
fn killed_process_leaves_what_it_wrote_and_its_handles_are_dead() {
    let disk = disk(1);
    let mount = disk.mount();
    let file = mount.open("a", Open::Create).unwrap();
    file.write_at(0, b"cached").unwrap();
    disk.crash(Crash::Kill);
    assert_eq!(disk.peek("a").unwrap(), b"cached");
    assert!(file.write_at(0, b"ghost").is_err());
    assert!(mount.list("").is_err());
    drop(file);
    assert_eq!(disk.mount().list("").unwrap().len(), 1);
}

#[test]
fn bytes_under_a_failed_sync_are_read_back_but_never_durable() {
    let disk = disk(1);
    let mount = disk.mount();
    put(&mount, "a", b"old");
    mount.sync_dir("").unwrap();
    let times = Some(1);
    disk.add_fault(Fault { prefix: "a".into(), on: On::Sync, probability: 1.0, times });
    let file = mount.open("a", Open::Write).unwrap();
    file.write_at(0, b"new").unwrap();
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(disk.peek("a").unwrap(), b"new");
    disk.crash(Crash::Power);
    assert_eq!(disk.peek("a").unwrap(), b"old");
}

#[test]
fn full_dead_rotten_and_copied_disks_behave_so() {
    let disk = disk(1);
    let mount = disk.mount();
    disk.set_capacity(Some(8192));
    let file = mount.open("a", Open::Create).unwrap();
    file.write_at(0, &[0; 8192]).unwrap();
    let error = file.write_at(8192, b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    file.write_at(0, b"overwriting needs no room").unwrap();
    assert_eq!(mount.space().unwrap().available, 0);

    assert!(disk.flip_bit("a", 1, 0));
    assert_eq!(disk.peek("a").unwrap()[1], b'v' ^ 1);

    let copy = disk.copy("d2", 2, &Stream::new(2));
    assert_eq!(copy.peek("a"), disk.peek("a"));
    assert_eq!(copy.peek_durable("a"), disk.peek("a"));
    assert_ne!(copy.mount().inode("a").unwrap(), mount.inode("a").unwrap());

    disk.die_after(1);
    assert!(mount.exists("a").unwrap());
    assert!(mount.exists("a").is_err());
    disk.heal();
    assert!(mount.exists("a").unwrap());
    disk.wipe();
    assert!(mount.exists("a").is_err());
    assert!(disk.paths().is_empty());
}

#[test]
fn quota_is_met_without_a_warning_and_ends_with_the_other_faults() {
    let disk = disk(1);
    let mount = disk.mount();
    put(&mount, "a", &[0; 4096]);
    disk.set_quota(8192);
    let before = mount.space().unwrap().available;
    assert!(before > 1 << 30, "the disk says nothing of it");
    let file = mount.open("b", Open::Create).unwrap();
    file.write_at(0, &[0; 4096]).unwrap();
    let error = file.write_at(4096, b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 4096, "nothing was written");
    disk.heal();
    file.write_at(4096, b"x").unwrap();
}

#[test]
fn removed_file_gives_its_space_back_once_it_is_closed() {
    let disk = disk(1);
    let mount = disk.mount();
    disk.set_capacity(Some(8192));
    let file = mount.open("a", Open::Create).unwrap();
    file.write_at(0, &[0; 8192]).unwrap();
    mount.remove("a").unwrap();
    assert_eq!(mount.space().unwrap().available, 0);
    drop(file);
    assert_eq!(mount.space().unwrap().available, 8192);
    put(&mount, "b", &[0; 8192]);
}

#[test]
fn removed_files_are_collected_and_open_ones_stay_readable() {
    let disk = disk(1);
    let mount = disk.mount();
    put(&mount, "open", b"still here");
    let open = mount.open("open", Open::Read).unwrap();
    mount.remove("open").unwrap();
    for round in 0..600 {
        let name = format!("f{round}");
        put(&mount, &name, b"x");
        mount.remove(&name).unwrap();
        mount.sync_dir("").unwrap();
    }
    let mut buf = [0; 10];
    open.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"still here");
    assert!(disk.state.lock().tree.inodes.len() < 300);
}

#[test]
fn what_a_killed_life_left_unsynced_is_seen_by_the_next_and_lost_by_a_power_cut() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        put(&disk.mount(), "a", b"x");
        disk.crash(Crash::Kill);
        assert!(disk.mount().exists("a").unwrap());
        disk.crash(Crash::Power);
        lost += u32::from(disk.paths().is_empty());
    }
    assert!((20..80).contains(&lost), "{lost}");
}

#[test]
fn image_is_the_durable_state_under_the_same_inodes() {
    let disk = disk(1);
    let mount = disk.mount();
    put(&mount, "a", b"old");
    mount.sync_dir("").unwrap();
    let file = mount.open("a", Open::Write).unwrap();
    file.write_at(0, b"new").unwrap();
    let image = disk.image(&Stream::new(2));
    file.sync().unwrap();
    assert_eq!((image.peek("a").unwrap(), disk.peek("a").unwrap()), (b"old".into(), b"new".into()));
    assert_eq!(image.mount().inode("a").unwrap(), mount.inode("a").unwrap());
    assert_ne!(
        disk.copy("d2", 2, &Stream::new(2)).mount().inode("a").unwrap(),
        mount.inode("a").unwrap()
    );
}

#[test]
fn killed_process_whose_sync_failed_comes_back_without_those_bytes() {
    let disk = disk(1);
    let mount = disk.mount();
    put(&mount, "a", b"old");
    mount.sync_dir("").unwrap();
    let file = mount.open("a", Open::Write).unwrap();
    file.write_at(0, b"new").unwrap();
    disk.add_fault(Fault { prefix: "a".into(), on: On::Sync, probability: 1.0, times: Some(1) });
    assert!(file.sync().is_err() && disk.failed_syncs() == 1);
    assert_eq!(disk.peek("a").unwrap(), b"new");
    disk.crash(Crash::Kill);
    assert_eq!(disk.peek("a").unwrap(), b"old");
}
