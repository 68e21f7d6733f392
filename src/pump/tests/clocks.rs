//! Clocks in the pump: moved by timestamps and, where nothing is waiting, by a wall-clock that is believed only so far.

use super::*;

#[test]
fn the_wall_clock_ticks_partitions_that_are_caught_up() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.polled(Polled::CaughtUp(0));
    bench.pass(45);
    assert_eq!(bench.turn(), Vec::<String>::new(), "no multiple is crossed");
    bench.pass(160);
    assert_eq!(bench.turn(), ["ticks 0/8: 3+2 @100", "seal 2 before 5", "cut 2"], "partition 1 is not known to be caught up");
    assert_eq!(bench.part(0).ticks, [], "nothing followed them");
    bench.committed();
    bench.pass(5);
    bench.records(0, &[(10, 210)]);
    assert_eq!(bench.part(0).ticks, [(10, DAY + 200)], "the record followed, an epoch later");
    bench.committed();
    bench.pass(300);
    assert_eq!(bench.turn(), Vec::<String>::new(), "records came: not known to be caught up");
    bench.polled(Polled::CaughtUp(0));
    bench.polled(Polled::Behind(0));
    assert_eq!(bench.turn(), Vec::<String>::new(), "its fetches fail");
}

#[test]
fn a_wall_clock_that_steps_stops_wall_ticks_and_says_so() {
    let mut bench = Bench::live(&[0], 100);
    bench.polled(Polled::CaughtUp(0));
    bench.now.wall_ms += 3_600_000;
    bench.now.monotonic += Duration::from_millis(100);
    let told = bench.turn();
    assert!(matches!(&told[..], [said] if said.contains("stepped by 3599900 ms")), "{told:?}");
    bench.now.wall_ms -= 3_600_000;
    bench.pass(200);
    assert_eq!(bench.turn()[..2], ["Clock(None)", "ticks 0/8: 2+2 @100"]);
}

#[test]
fn a_step_of_the_wall_clock_rejects_nothing() {
    let mut bench = Bench::live(&[0], 100);
    bench.now.wall_ms += 3_600_000; // a clock set right, or a machine that slept
    bench.now.monotonic += Duration::from_millis(100);
    let told = bench.records(0, &[(10, 3_600_000)]);
    assert_eq!(told[1], "records 0/8: 2+1 @100, 0/9: 3+1 @100#10 rejects []", "it counts as the time that is believed");
    bench.now.wall_ms -= 7_200_000;
    bench.now.monotonic += Duration::from_millis(100);
    let told = bench.records(0, &[(11, 400)]);
    assert_eq!(told.last().unwrap(), "records 0/10: 4+1 @200, 0/11: 5+1 @200#11 rejects []");
}

#[test]
fn clocks_stand_while_the_source_is_held() {
    let mut bench = Bench::live(&[0, 1], 2);
    bench.polled(Polled::CaughtUp(1));
    bench.records(0, &[(10, 0), (11, 0)]); // epoch 2 is in flight
    bench.records(0, &[(12, 0), (13, 0)]); // epoch 3 is full
    bench.pump.poll(bench.now).unwrap();
    bench.pass(10_000);
    assert_eq!(bench.turn(), Vec::<String>::new(), "records of partition 1 may be waiting");
    bench.committed();
    bench.turn();
    bench.pump.poll(bench.now).unwrap();
    assert!(bench.calls().contains(&"hold false".to_owned()));
    assert_eq!(bench.turn(), Vec::<String>::new(), "they may still be, until the source says otherwise");
    bench.polled(Polled::CaughtUp(1));
    assert_eq!(bench.turn(), ["ticks 1/8: 7+100 @100"]);
}

#[test]
fn timestamps_move_the_clock_or_are_rejects() {
    // wall-clock after DAY, (offset, timestamp) → what is fed
    let rows: [(u64, &[(i64, Millis)], &str); 6] = [
        (1_000, &[(10, 120), (11, 199), (12, 350)], "0/8: 2+1 @100, 0/9: 3+2 @100#10, 0/11: 5+2 @200, 0/13: 7+1 @300#12 rejects []"),
        (1_000, &[(10, 300), (11, 100)], "0/8: 2+3 @100, 0/11: 5+2 @300#10 rejects []"),
        (1_000, &[(10, 60_000)], "0/8: 2+10 @100, 0/18: 12+1 @1000#10 rejects []"), // ahead: counts as the wall-clock
        (1_000, &[(10, 301_006)], "0/8: 2+1 @0#10 rejects [(2, \"future_timestamp\")]"),
        (1_000, &[(10, -DAY - 1), (11, 100)], "0/8: 2+1 @0#10, 0/9: 3+1 @100, 0/10: 4+1 @100#11 rejects [(2, \"negative_timestamp\")]"),
        (1_000, &[(10, 0), (13, 0), (14, 0)], "0/8: 2+1 @0#10, 0/9: 3+2 @0#13 rejects []"), // a gap
    ];
    for (wall_ms, records, expected) in rows {
        let mut bench = Bench::live(&[0], 100);
        bench.pass(wall_ms);
        assert_eq!(bench.records(0, records)[0], format!("records {expected}"), "{records:?}");
    }
}
