//! What is counted shows, under its name.

use super::*;

#[test]
fn what_is_counted_shows_under_its_name() {
    let metrics = Metrics::new();
    metrics.epoch_committed(&EpochCounts {
        records: vec![(0, 5), (3, 2)],
        changes: vec![(Cause::Vote, 4)],
        rejects: vec![("not_json", 1)],
        late: 1,
        unchanged: 2,
        over_limit: 6,
        checkpoint_rows: 6,
        checkpoint_bytes: 77,
        slice_rows: 3,
        slice_bytes: 33,
        log_bytes: vec![(3, 500), (4, 1)],
        trims: 2,
        trims_failed: 1,
        transaction: Some(Duration::from_millis(8)),
    });
    metrics.epoch_committed(&EpochCounts::default());
    metrics.transaction_failed(&TransactError::Maybe("timed out".into()));
    metrics.lag(3, 12);
    metrics.lag(4, 1);
    metrics.partition_released(4);
    metrics.restore_read(10);
    metrics.partition_restored(Duration::from_secs(1));
    metrics.copies(3, Duration::from_millis(250));
    metrics.taken_over(Duration::from_millis(20));
    metrics.http_request("/v1/objects", 200, Duration::from_millis(1));
    let open = metrics.http_connection();
    let text = metrics.scrape(Some(&vec![(None, 2), (Some("up".into()), 9)]), Staleness { age_ms: Some(1500) });
    for line in [
        concat!("statehouse_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "statehouse_source_records_total{partition=\"3\"} 2",
        "statehouse_source_lag_records{partition=\"3\"} 12",
        "statehouse_rejects_total{reason=\"not_json\"} 1",
        "statehouse_late_reports_total 1",
        "statehouse_unchanged_reports_total 2",
        "statehouse_reports_over_limit_total 6",
        "statehouse_objects{state=\"up\"} 9",
        "statehouse_objects{state=\"\"} 2",
        "statehouse_changes_total{cause=\"vote\"} 4",
        "statehouse_epochs_total 2",
        "statehouse_transactions_total{outcome=\"committed\"} 1",
        "statehouse_transactions_total{outcome=\"unknown\"} 1",
        "statehouse_transaction_duration_seconds_count 1",
        "statehouse_checkpoint_bytes_total 77",
        "statehouse_checkpoint_rows_total 6",
        "statehouse_checkpoint_slice_bytes_total 33",
        "statehouse_checkpoint_slice_rows_total 3",
        "statehouse_checkpoint_log_bytes{partition=\"3\"} 500",
        "statehouse_checkpoint_trims_total{outcome=\"done\"} 2",
        "statehouse_checkpoint_trims_total{outcome=\"failed\"} 1",
        "statehouse_restores_total 1",
        "statehouse_restore_records_total 10",
        "statehouse_restore_duration_seconds_count 1",
        "statehouse_copies 3",
        "statehouse_copies_age_seconds 0.25",
        "statehouse_takeovers_total 1",
        "statehouse_takeover_duration_seconds_count 1",
        "statehouse_stale 1",
        "statehouse_stale_seconds 1.5",
        "statehouse_http_requests_total{route=\"/v1/objects\",code=\"200\"} 1",
        "statehouse_http_connections 1",
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("partition=\"4\""), "a released partition still shows\n{text}");
    drop(open);
    let text = metrics.scrape(None, Staleness::default());
    assert!(text.contains("statehouse_http_connections 0") && !text.contains("statehouse_objects{"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn running_restores_show_and_those_that_are_over_do_not() {
    let metrics = Metrics::new();
    let restore = RestoreProgress { chunks: (1, 2), bytes: 800, rows: 70, elapsed_ms: 3_000, ..RestoreProgress::default() };
    [3, 4].into_iter().for_each(|partition| metrics.restore_at(partition, &restore));
    metrics.restore_over(4);
    let text = metrics.scrape(None, Staleness::default());
    for line in [
        "statehouse_restore_progress_ratio{partition=\"3\"} 0.25",
        "statehouse_restore_left_seconds{partition=\"3\"} 9",
        "statehouse_restore_read_rows{partition=\"3\"} 70",
        "statehouse_restore_read_bytes{partition=\"3\"} 800",
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("partition=\"4\""), "{text}");
}

#[test]
fn states_beyond_the_bound_are_summed_up() {
    let objects: Summary = (0..STATES_MAX as i64 + 5).map(|n| (Some(format!("s{n:03}").into()), 1000 - n)).collect();
    let shown = by_state(&objects);
    assert_eq!(shown.len(), STATES_MAX + 1);
    let rest: i64 = (STATES_MAX as i64..STATES_MAX as i64 + 5).map(|n| 1000 - n).sum();
    assert_eq!(shown.last(), Some(&(OTHER_STATES.to_owned(), rest)));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_shows() {
    let text = Metrics::new().scrape(None, Staleness::default());
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_threads"] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value >= 0.0 && (name == "process_cpu_seconds_total" || value > 0.0), "{line}");
    }
}
