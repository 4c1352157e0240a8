//! Options of the builder that contradict each other, and the keys of what a run writes.

use std::path::Path;

use peft_learner::data::{Stream, StreamConfig};
use peft_learner::report::{EvalReport, Metrics, StepReport};
use peft_learner::train::Finetune;
use peft_learner::{LearnerError, StreamError};

use super::{adapted, examples, options, stream};

/// The error of a run, which has written nothing.
fn refused(run: Finetune<llama_burn::Llama>) -> LearnerError {
    let dir = tempfile::tempdir().unwrap();
    let error = run.run(dir.path().join("run")).unwrap_err();
    assert!(!dir.path().join("run").exists());
    error
}

fn run() -> Finetune<llama_burn::Llama> {
    Finetune::new(adapted(0.0), "default", options(Path::new("run"), 2).training)
}

#[test]
fn options_of_rows_beside_a_stream_are_refused_by_name() {
    let message = |run: Finetune<llama_burn::Llama>| match refused(run) {
        LearnerError::Options(problems) => problems.to_string(),
        other => panic!("{other}"),
    };
    for shuffle in [true, false] {
        let said = message(run().stream(stream(2, 2, false)).shuffle(shuffle));
        assert!(said.contains("`shuffle` beside `stream`") && said.contains("of StreamConfig"), "{said}");
    }
    let all = message(run().packing(40).seed(6).shuffle(true).stream(stream(2, 2, false)));
    for part in [
        "`packing` beside `stream`",
        "`shuffle` beside",
        "`seed` is 6, and the stream's order comes of its own seed, 5",
    ] {
        assert!(all.contains(part), "{all}");
    }
    let mut training = options(Path::new("run"), 2).training;
    training.group_by_length = true;
    let said = message(Finetune::new(adapted(0.0), "default", training).stream(stream(2, 2, false)));
    assert!(said.contains("`group_by_length` beside `stream`"), "{said}");
}

#[test]
fn a_seed_that_agrees_with_the_stream_or_has_no_part_in_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    run().stream(stream(2, 2, false)).seed(5).run(dir.path().join("agrees")).unwrap();
    let in_order = Stream::new(examples(), StreamConfig { shuffle: false, ..stream(2, 2, false).config().clone() });
    run().stream(in_order.unwrap()).seed(6).run(dir.path().join("in_order")).unwrap();
}

#[test]
fn packing_into_rows_without_room_is_refused() {
    let error = refused(run().train(examples()).packing(0));
    assert!(matches!(error, LearnerError::Stream(StreamError::NoRoom)), "{error:?}");
    assert!(error.to_string().contains("rows of 0 tokens"), "{error}");
}

#[test]
fn every_key_of_metrics_stands_in_the_documents_table() {
    let step = StepReport {
        task_loss: Some(1.0),
        orthogonal_loss: Some(1.0),
        budget: Some(1),
        live_triplets: Some(1),
        ..StepReport::default()
    };
    let guide = include_str!("../../docs/training.md");
    let (_, table) = guide.split_once("### Keys of `metrics.jsonl`").unwrap();
    for line in [Metrics::Train(step), Metrics::Valid(EvalReport::default())] {
        for key in serde_json::to_value(line).unwrap().as_object().unwrap().keys() {
            assert!(table.contains(&format!("`{key}`")), "{key} is not in docs/training.md");
        }
    }
}
