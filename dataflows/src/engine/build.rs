//! The dataflow of an engine, built: inputs, operators in the order in which data moves, and the arrangements that are kept.
//!
//! Once, when the engine is made; what stands between inputs and traces is not seen again.

use std::{cell::RefCell, rc::Rc};

use differential_dataflow::{
    operators::arrange::{Arranged, arrangement::arrange_core},
    trace::TraceReader,
};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        InputHandle, Stream,
        channels::pact::Pipeline,
        operators::{Concat, Input, Probe, probe},
    },
    progress::frontier::AntichainRef,
    worker::Worker,
};

use crate::{
    flat::{self, EpochBatcher, FlatSpine, FlatTrace, Update},
    names::{Names, ObjectId},
    posted::Posted,
    publish::{Control, Outbox, Settled, Shared, part, publish},
    reports::{Claims, ReportDiff, TallyDiff},
    rule::decide::Rules,
    slots::{Slot, Slots},
    verdict::{self, ReportsTrace, TallyTrace},
    vocabulary::{Name, Partition, Seq},
};

pub(super) type KnownTrace = FlatTrace<(Partition, Name), ObjectId, i32>;
pub(super) type PublishedTrace = FlatTrace<ObjectId, Slot, i32>;
type SummaryTrace = FlatTrace<(Partition, Option<Name>), (), i32>;
type Feed<D> = InputHandle<Seq, CapacityContainerBuilder<Vec<D>>>;

/// What ids and slots stand for. Shared by the stages, on one thread.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) names: Rc<RefCell<Names>>,
    pub(super) claims: Rc<RefCell<Claims>>,
    pub(super) posted: Rc<RefCell<Slots<Posted>>>,
}

pub(super) struct Inputs {
    pub(super) reports: Feed<ReportDiff>,
    pub(super) tallies: Feed<TallyDiff>,
    pub(super) control: Feed<(Seq, Control)>,
    pub(super) waiting_control: Vec<(Seq, Control)>,
}

pub(super) struct Traces {
    pub(super) reports: ReportsTrace,
    pub(super) tallies: TallyTrace,
    pub(super) known: KnownTrace,
    pub(super) published: PublishedTrace,
    pub(super) summary: SummaryTrace,
}

pub(super) fn build(
    worker: &mut Worker,
    rules: &Rc<Rules>,
    Stores { names, claims, posted }: &Stores,
    outbox: &Rc<RefCell<Outbox>>,
) -> (Inputs, Traces, probe::Handle<Seq>) {
    let probe = probe::Handle::new();
    worker.dataflow(|scope| {
        let (reports_input, reports) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<ReportDiff>>>();
        let (tally_input, tallies) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<TallyDiff>>>();
        let (control_input, control) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<(Seq, Control)>>>();
        let reports = arrange(reports, "Reports");
        let tallies = arrange(tallies, "Tally");
        let (reports_trace, tally_trace) = (reports.trace.clone(), tallies.trace.clone());

        let mut decisions = verdict::over_tallies(tallies, rules.clone(), names.clone());
        if rules.any_over_reports() {
            decisions = decisions.concat(verdict::over_reports(reports, rules.clone(), names.clone(), claims.clone()));
        }
        let shared = Shared {
            rules: rules.clone(),
            names: names.clone(),
            outbox: outbox.clone(),
            tallies: tally_trace.clone(),
            posted: posted.clone(),
        };
        let settled = publish(decisions, control, shared);
        let known = part(settled.clone(), |settled: &Settled| &settled.known);
        let published = part(settled.clone(), |settled: &Settled| &settled.published);
        let by_state = part(settled, |settled: &Settled| &settled.by_state);
        let known = arrange(known, "Known");
        let published = arrange(published, "Published");
        let summary = arrange(by_state, "Summary");
        known.stream.probe_with(&probe);
        published.stream.probe_with(&probe);
        summary.stream.probe_with(&probe);
        let inputs = Inputs { reports: reports_input, tallies: tally_input, control: control_input, waiting_control: Vec::new() };
        let (known, published, summary) = (known.trace, published.trace, summary.trace);
        let traces = Traces { reports: reports_trace, tallies: tally_trace, known, published, summary };
        (inputs, traces, probe)
    })
}

impl Inputs {
    pub(super) fn advance_to(&mut self, end: Seq) {
        self.reports.advance_to(end);
        self.tallies.advance_to(end);
        self.control.advance_to(end);
    }
}

impl Traces {
    /// L is inclusive: logical compaction moves older times *to* its frontier, so at L + 1 a merge would hide committed rows from readers
    /// at L. Physical compaction may follow the upper frontier.
    pub(super) fn compact(&mut self, last: Seq, end: Seq) {
        fn compact<Tr: TraceReader<Time = Seq>>(trace: &mut Tr, last: Seq, end: Seq) {
            trace.set_logical_compaction(AntichainRef::new(&[last]));
            trace.set_physical_compaction(AntichainRef::new(&[end]));
        }
        compact(&mut self.reports, last, end);
        compact(&mut self.tallies, last, end);
        compact(&mut self.known, last, end);
        compact(&mut self.published, last, end);
        compact(&mut self.summary, last, end);
    }
}

fn arrange<'a, K: flat::Part, V: flat::Part, R: flat::Diff>(
    updates: Stream<'a, Seq, Vec<Update<K, V, R>>>,
    name: &str,
) -> Arranged<'a, FlatTrace<K, V, R>> {
    arrange_core::<_, _, _, FlatSpine<K, V, R>>(updates, Pipeline, name, |_, _| EpochBatcher::default())
}
