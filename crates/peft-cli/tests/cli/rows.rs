//! Rows and files that cannot be used as they are: what is said, and that doing what is said helps.

use crate::cases::world;
use crate::support::Place;

/// Writes `name` and measures the world's model on it.
fn eval(place: &Place, name: &str, content: impl AsRef<[u8]>) -> crate::support::Said {
    std::fs::write(place.path(name), content).unwrap();
    place.eval(&world(), None, &place.path(name))
}

#[test]
fn files_that_cannot_be_used_are_mended_as_the_error_says() {
    let place = Place::new();
    let utf32 = |text: &str| {
        let mark = [0xff, 0xfe, 0, 0].into_iter();
        mark.chain(text.chars().flat_map(|c| (c as u32).to_le_bytes())).collect::<Vec<u8>>()
    };
    let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    let row = "{\"text\": \"größe\"}\n";
    for (name, wrong, parts, mended, right) in [
        ("a.jsonl", utf32(row), &["it is in UTF-32", "save it as UTF-8"][..], "a.jsonl", row),
        ("b.jsonl", latin(row), &["line 1: not UTF-8", "save the file as UTF-8"], "b.jsonl", row),
        (
            "c.json",
            b"{\"text\": {\"0\": \"a b\", \"1\": \"c\"}}".to_vec(),
            &["in the place of rows", "orient=\"records\""],
            "c.json",
            "{\"text\": \"a b\"}\n{\"text\": \"c\"}\n",
        ),
        (
            "d.csv",
            b"prompt;completion\na; b\n".to_vec(),
            &["separated by ';'", "with commas"],
            "d.csv",
            "prompt,completion\na, b\n",
        ),
        (
            "e.csv",
            b"prompt\tcompletion\na\t b\n".to_vec(),
            &["separated by '\\t'", "end in .tsv"],
            "e.tsv",
            "prompt\tcompletion\na\t b\n",
        ),
        (
            "f.jsonl",
            b"{\"text\": \"a b\", \"score\": NaN}\n".to_vec(),
            &["NaN at column 26", "write null"],
            "f.jsonl",
            "{\"text\": \"a b\", \"score\": null}\n",
        ),
        (
            "g.jsonl",
            b"{\"text\": \"a\", \"text\": \"b\"}\n".to_vec(),
            &["line 1: the key `text` is there twice"],
            "g.jsonl",
            row,
        ),
        (
            "h.jsonl",
            b"{\"text\": \"a b\"}\n{\"text\": \"a".to_vec(),
            &["line 2", "may have been cut short", "correct or remove these rows"],
            "h.jsonl",
            "{\"text\": \"a b\"}\n",
        ),
    ] {
        eval(&place, name, wrong).fails_with(parts);
        let said = eval(&place, mended, right);
        assert_eq!(said.code, 0, "{mended}: {}", said.err);
    }
    let deep = |value: String| format!("{{\"text\": \"a b\", \"meta\": {value}}}\n");
    let nested = format!("{}{}", "[".repeat(300), "]".repeat(300));
    eval(&place, "i.jsonl", deep(nested.clone()))
        .fails_with(&["line 1: nested deeper than 127 levels", "write it as text"]);
    assert_eq!(eval(&place, "i.jsonl", deep(format!("{nested:?}"))).code, 0);
}

#[test]
fn names_of_columns_that_the_error_suggests_are_taken() {
    let place = Place::new();
    place.write("run.toml", &format!("output = \"x\"\n[model]\npath = {:?}\n[adapter]\npeft_type = \"LORA\"\n[data]\ntrain = \"none\"\n[training]\nmax_steps = 1\n", world()));
    for (row, parts, set) in [
        (
            r#"{"question": "a", "answer": " b"}"#,
            &["prompt = \"question\" and completion = \"answer\""][..],
            "--set data.columns.prompt=question --set data.columns.completion=answer",
        ),
        (r#"{"body": "a b"}"#, &["text = \"body\""], "--set data.columns.text=body"),
        (
            r#"{"prompt": "a", "completion": " b", "system": "s"}"#,
            &["`system` is not read", "ignore = [\"system\"]"],
            "--set data.ignore=[\"system\"]",
        ),
        (
            r#"{"text": "a b", "weight": 0.5}"#,
            &["`weight` is 0.5", "ignore = [\"weight\"]"],
            "--set data.ignore=[\"weight\"]",
        ),
    ] {
        eval(&place, "rows.jsonl", format!("{row}\n")).fails_with(parts);
        place.ok(&format!("eval --model {} --data rows.jsonl --config run.toml {set}", world().display()));
    }
    let said = eval(
        &place,
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"system\": \"b\"}\n{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}], \"system\": \"b\"}\n",
    );
    said.fails_with(&["line 2: `messages` begins with a system's turn, and there is `system` too"]);
}

#[test]
fn each_file_may_have_names_of_its_own() {
    let place = Place::new();
    place.write("a.jsonl", "{\"q\": \"Bring Emil\", \"a\": \" two coats\"}\n");
    place.write("b.jsonl", "{\"prompt\": \"Bring Emil\", \"completion\": \" two coats\"}\n");
    let config = |train: &str| {
        format!(
            "output = \"run\"\n[model]\npath = {:?}\n[adapter]\npeft_type = \"LORA\"\nr = 2\n[data]\n{train}\n[training]\nmax_steps = 2\nlearning_rate = 1e-3\n",
            world()
        )
    };
    place.write("run.toml", &config("train = [{ path = \"a.jsonl\", columns = { prompt = \"q\", completion = \"a\" } }, \"b.jsonl\"]\nvalid = [{ path = \"a.jsonl\", columns = { prompt = \"q\", completion = \"a\" } }]"));
    let said = place.ok("train run.toml --overwrite");
    assert!(said.err.contains("2 rows"), "{}", said.err);
    // The run's own file says the same again.
    place.ok("train run/config.toml --set training.max_steps=3 --set output=again");
    place.write(
        "run.toml",
        &config("train = { path = \"a.jsonl\", columns = { prompt = \"question\", completion = \"a\" } }"),
    );
    place.run("train run.toml --overwrite").fails_with(&["`q`", "fits no shape"]);
    place.write("run.toml", &config("train = { path = \"a.jsonl\", columns = { promt = \"q\" } }"));
    place.run("train run.toml --overwrite").fails_with(&[
        "`data.columns.promt`",
        "the nearest is `prompt`",
        "`a.jsonl`",
    ]);
    place.write("run.toml", &config("train = { path = \"b.jsonl\", columns = { text = \"body\" } }"));
    place
        .run("train run.toml --overwrite")
        .fails_with(&["no row has a column `body`, which `columns` names for `text`"]);
}
