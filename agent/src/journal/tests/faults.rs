//! Disks that fail, directories that change while they are listed, files that are not what they were.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::real::Tools;
use super::world::{Wanted, World, copy, entries, lines};
use crate::config::ReadExisting;
use crate::journal::dirs::{Dirs, HostDirs, Listing};
use crate::logs::fs::{LogFile, Stat};
use sonde_daemon::units::Interval;

/// What goes wrong, for paths that contain this text.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The directory cannot be listed.
    pub unlisted: Option<&'static str>,
    /// It is not in the next listing, which says nothing.
    pub passed_by: Option<&'static str>,
    /// It cannot be opened.
    pub closed: Option<&'static str>,
    /// Reads that touch these bytes fail.
    pub unread: Option<(&'static str, Range<u64>)>,
}

/// The host's directories, and faults.
pub struct TestDirs {
    pub host: HostDirs,
    pub faults: Arc<Mutex<Faults>>,
}

pub struct TestFile {
    file: File,
    path: String,
    faults: Arc<Mutex<Faults>>,
}

impl Dirs for TestDirs {
    type File = TestFile;

    fn list(&mut self) -> Listing {
        let mut listing = self.host.list();
        let mut faults = self.faults.lock().unwrap();
        if let Some(dir) = faults.unlisted {
            listing.journals.retain(|(path, _)| !path.contains(dir));
            listing.failed.extend(listing.dirs.extract_if(.., |path| path.contains(dir)));
        }
        if let Some(name) = faults.passed_by.take() {
            listing.journals.retain(|(path, _)| !path.contains(name));
        }
        listing
    }

    fn open(&mut self, path: &str) -> io::Result<TestFile> {
        if self.faults.lock().unwrap().closed.is_some_and(|closed| path.contains(closed)) {
            return Err(io::Error::from_raw_os_error(24));
        }
        Ok(TestFile { file: self.host.open(path)?, path: path.to_owned(), faults: self.faults.clone() })
    }
}

impl LogFile for TestFile {
    fn stat(&self) -> io::Result<Stat> {
        LogFile::stat(&self.file)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some((name, bad)) = &self.faults.lock().unwrap().unread
            && self.path.contains(name)
            && offset < bad.end
            && offset + buffer.len() as u64 > bad.start
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.read_at(buffer, offset)
    }
}

#[test]
fn what_is_written_after_the_first_start_is_sent_whatever_its_clock_says() {
    let test = "what_is_written_after_the_first_start_is_sent_whatever_its_clock_says";
    let half = Interval::millis(24 * 3600 * 1000 - 50);
    let wanted = Wanted { read_existing: ReadExisting::Within(half), ..Wanted::default() };
    let Some(mut world) = World::new(test, wanted) else { return };
    world.write(&entries(0, 100));
    world.drain();
    assert_eq!((world.bodies(), world.snapshot().counts.old), (lines(50, 100), 50));
    // A boot with a clock that stands at long ago.
    world.write(&entries(0, 10));
    world.drain();
    world.start();
    world.write(&entries(10, 20));
    world.drain();
    assert_eq!(world.got.len(), 70);
    assert_eq!((world.most_often(), world.snapshot().counts.old), (1, 0));
}

#[test]
fn a_journal_that_cannot_be_opened_for_a_while_is_read_then_from_its_position() {
    let test = "a_journal_that_cannot_be_opened_for_a_while_is_read_then_from_its_position";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 100));
    world.drain();
    world.write(&entries(100, 105));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(105, 110));
    world.faults().closed = Some("@");
    world.start();
    world.drain();
    world.faults().closed = None;
    world.write(&entries(110, 120));
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 120), 1));
    let counts = world.snapshot().counts;
    assert_eq!((counts.unreadable_files, counts.deleted), (1, 0));
}

#[test]
fn a_directory_that_cannot_be_listed_for_a_while_is_not_taken_for_an_empty_one() {
    let test = "a_directory_that_cannot_be_listed_for_a_while_is_not_taken_for_an_empty_one";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 50));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(50, 100));
    world.drain();
    world.faults().unlisted = Some("log/journal");
    (0..100).for_each(|_| world.turn());
    world.faults().unlisted = None;
    world.write(&entries(100, 110));
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 110), 1));
    world.faults().unlisted = Some("0123");
    world.start();
    (0..100).for_each(|_| world.turn());
    world.faults().unlisted = None;
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 110), 1));
    assert_eq!(world.snapshot().counts.deleted, 0);
}

#[test]
fn a_journal_that_one_listing_passes_by_during_a_rename_is_not_sent_again() {
    let test = "a_journal_that_one_listing_passes_by_during_a_rename_is_not_sent_again";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 50));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(50, 100));
    world.drain();
    for name in ["@", "system.journal"] {
        world.faults().passed_by = Some(name);
        (0..100).for_each(|_| world.turn());
        assert_eq!(world.faults().passed_by, None);
        world.drain();
    }
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 100), 1));
    assert_eq!(world.snapshot().files, 2);
}

#[test]
fn a_bad_place_of_the_disk_costs_what_lies_there_and_only_when_it_stays_bad() {
    let test = "a_bad_place_of_the_disk_costs_what_lies_there_and_only_when_it_stays_bad";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 300));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(300, 310));
    let bytes = fs::read(&world.archived()[0]).unwrap();
    let at = memchr::memmem::find(&bytes, b"MESSAGE=line 00150").unwrap() as u64;
    world.faults().unread = Some(("@", at..at + 1));
    (0..60).for_each(|_| world.turn());
    world.faults().unread = None;
    world.drain();
    assert_eq!((world.bodies(), world.snapshot().counts.damaged), (lines(0, 310), 0));

    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 300));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(300, 310));
    world.faults().unread = Some(("@", at..at + 1));
    (0..200).for_each(|_| world.turn_and_store());
    world.drain();
    let bodies = world.bodies();
    assert!(lines(0, 100).iter().chain(&lines(200, 310)).all(|line| bodies.contains(line)), "{bodies:?}");
    let damaged = world.snapshot().counts.damaged;
    assert!(damaged > 0 && damaged == 310 - bodies.len() as u64, "{damaged} {}", bodies.len());
}

#[test]
fn arrays_that_the_disk_does_not_give_end_the_journal_and_not_the_reading() {
    let test = "arrays_that_the_disk_does_not_give_end_the_journal_and_not_the_reading";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 300));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(300, 310));
    world.faults().unread = Some(("@", 20_000..u64::MAX));
    (0..200).for_each(|_| world.turn_and_store());
    world.drain();
    let damaged = world.snapshot().counts.damaged;
    assert!(lines(300, 310).iter().all(|line| world.bodies().contains(line)));
    assert_eq!(damaged, 310 - world.got.len() as u64);
}

#[test]
fn an_inode_that_serves_again_is_another_journal() {
    let Some(mut world) = World::new("an_inode_that_serves_again_is_another_journal", Wanted::default())
    else {
        return;
    };
    world.write(&entries(0, 50));
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(50, 60));
    world.drain();
    // What was archived is closed by now; its inode gets another name and other bytes.
    let other = world.dir.path().join("user-7.journal");
    world.tools.write(&other, &entries(60, 70), &[]);
    let archived = world.archived().remove(0);
    fs::write(&archived, fs::read(&other).unwrap()).unwrap();
    fs::rename(archived, world.journals().join("user-7.journal")).unwrap();
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 70), 1));
    // And one that is open.
    let other = world.dir.path().join("system.journal");
    world.tools.write(&other, &entries(70, 75), &[]);
    fs::write(world.active(), fs::read(&other).unwrap()).unwrap();
    world.drain();
    world.write(&entries(75, 80));
    world.drain();
    assert_eq!((world.bodies(), world.most_often()), (lines(0, 80), 1));
}

#[test]
fn of_a_journal_that_is_set_back_to_an_older_state_nothing_is_lost() {
    let test = "of_a_journal_that_is_set_back_to_an_older_state_nothing_is_lost";
    for is_running in [true, false] {
        for in_place in [true, false] {
            let Some(mut world) = World::new(test, Wanted::default()) else { return };
            world.write(&entries(0, 50));
            let backup = world.dir.path().join("backup");
            copy(&world.active(), &backup);
            world.write(&entries(50, 100));
            world.drain();
            if in_place {
                fs::write(world.active(), fs::read(&backup).unwrap()).unwrap();
            } else {
                fs::rename(&backup, world.active()).unwrap();
            }
            if is_running {
                world.drain();
            } else {
                world.start();
            }
            world.write(&entries(200, 210));
            world.drain();
            let want = [lines(0, 100), lines(200, 210)].concat();
            assert_eq!(world.bodies(), want, "{is_running} {in_place}");
            // What it still has is sent again, by the same uid, and that is said.
            assert!(world.most_often() <= 2 && world.resends.iter().any(|resend| *resend));
        }
    }
}

#[test]
fn a_journal_of_which_nothing_was_acknowledged_is_counted_when_it_is_gone() {
    let test = "a_journal_of_which_nothing_was_acknowledged_is_counted_when_it_is_gone";
    let Some(mut world) = World::new(test, Wanted::default()) else { return };
    world.write(&entries(0, 100));
    (0..8).for_each(|_| world.turn());
    Tools::rotate_at_the_next_write(&world.active());
    world.write(&entries(100, 110));
    fs::remove_file(&world.archived()[0]).unwrap();
    world.start();
    world.drain();
    assert_eq!((world.bodies(), world.snapshot().counts.deleted), (lines(100, 110), 100));
}
