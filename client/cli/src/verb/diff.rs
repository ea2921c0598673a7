//! `cairn diff`

use cairn_client::{Change, CheckpointDiff, FileChange, TensorChange};
use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural, table};
use crate::session::Session;
use crate::{address, foreign};

/// Tensors of one file that the text lists.
const TENSORS_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// NAMESPACE@SELECTOR of the first, such as run1@latest~1 (`cairn help selectors`)
    first: String,
    /// NAMESPACE@SELECTOR of the second, such as run1@latest
    second: String,
    /// Do not look into safetensors files: nothing but manifests is read
    #[arg(long)]
    files_only: bool,
}

pub fn run(session: &Session, args: DiffArgs) -> Outcome {
    let (first, second) = (address::parse(&args.first)?, address::parse(&args.second)?);
    let tensors = !args.files_only;
    let diff = session.with_client(async |client| client.diff(&first, &second, tensors).await)?;
    session.output.result(&document(&diff), || text(&diff))?;
    Ok(Exit::Ok)
}

pub(super) fn text(diff: &CheckpointDiff) -> String {
    let name =
        |info: &cairn_types::model::CheckpointInfo| format!("{}@{}", info.namespace, info.step);
    let count = |change| diff.files.iter().filter(|file| file.change == change).count() as u64;
    let mut text = format!(
        "{} to {}\nfiles: {} changed, {} added, {} removed, {} the same\n",
        name(&diff.first),
        name(&diff.second),
        count(Change::Changed),
        count(Change::Added),
        count(Change::Removed),
        diff.files_same
    );
    text += &format!(
        "segments: {} shared, {} only in the second, {} only in the first\n",
        bytes(diff.bytes_shared),
        bytes(diff.bytes_second_only),
        bytes(diff.bytes_first_only)
    );
    if diff.files.is_empty() {
        return text;
    }
    let mut rows = vec![["CHANGE", "SIZE", "NEW", "FILE"].map(str::to_owned).to_vec()];
    for file in &diff.files {
        let size = match file.change {
            Change::Removed => file.bytes.0,
            Change::Added | Change::Changed => file.bytes.1,
        };
        let name = foreign::name(&file.name);
        rows.push(vec![word(file.change).to_owned(), bytes(size), bytes(file.bytes_new), name]);
    }
    text += &format!("\n{}", table(&rows));
    for file in &diff.files {
        if let Some((tensors, same)) = &file.tensors {
            text += &tensor_table(file, tensors, *same);
        }
    }
    text
}

fn tensor_table(file: &FileChange, tensors: &[TensorChange], same: u64) -> String {
    let count = plural(tensors.len() as u64, "tensor");
    let name = foreign::name(&file.name);
    let mut text = format!("\n{name}: {count} of {} differ\n", tensors.len() as u64 + same);
    if tensors.is_empty() {
        // The header or the order of tensors changed.
        return text;
    }
    let mut rows = vec![["CHANGE", "SIZE", "FORM", "TENSOR"].map(str::to_owned).to_vec()];
    for tensor in tensors.iter().take(TENSORS_SHOWN) {
        let (was, is) = &tensor.form;
        let form = match tensor.change {
            Change::Removed => was.clone(),
            Change::Changed if was != is => format!("{was} to {is}"),
            Change::Added | Change::Changed => is.clone(),
        };
        let size = tensor.bytes.1.max(if is.is_empty() { tensor.bytes.0 } else { 0 });
        rows.push(vec![word(tensor.change).to_owned(), bytes(size), form, tensor.name.clone()]);
    }
    text += &table(&rows);
    if tensors.len() > TENSORS_SHOWN {
        text += &format!("and {} more: --json lists all\n", tensors.len() - TENSORS_SHOWN);
    }
    text
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    }
}

#[derive(Serialize)]
pub(super) struct Document {
    first: Named,
    second: Named,
    /// Segment bytes.
    bytes_shared: u64,
    bytes_first_only: u64,
    bytes_second_only: u64,
    files_same: u64,
    files: Vec<File>,
}

#[derive(Serialize)]
struct Named {
    namespace: String,
    step: u64,
    id: u64,
}

#[derive(Serialize)]
struct File {
    name: String,
    change: &'static str,
    bytes_first: u64,
    bytes_second: u64,
    bytes_new: u64,
    /// `None` where the files are not both safetensors, or were not looked into.
    tensors: Option<Vec<Tensor>>,
    tensors_same: Option<u64>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    change: &'static str,
    form_first: String,
    form_second: String,
    bytes_first: u64,
    bytes_second: u64,
}

pub(super) fn document(diff: &CheckpointDiff) -> Document {
    let named = |info: &cairn_types::model::CheckpointInfo| Named {
        namespace: info.namespace.to_string(),
        step: info.step.0,
        id: info.id.0,
    };
    let tensor = |tensor: &TensorChange| Tensor {
        name: tensor.name.clone(),
        change: word(tensor.change),
        form_first: tensor.form.0.clone(),
        form_second: tensor.form.1.clone(),
        bytes_first: tensor.bytes.0,
        bytes_second: tensor.bytes.1,
    };
    let file = |file: &FileChange| File {
        name: foreign::name(&file.name),
        change: word(file.change),
        bytes_first: file.bytes.0,
        bytes_second: file.bytes.1,
        bytes_new: file.bytes_new,
        tensors: file.tensors.as_ref().map(|(tensors, _)| tensors.iter().map(tensor).collect()),
        tensors_same: file.tensors.as_ref().map(|(_, same)| *same),
    };
    Document {
        first: named(&diff.first),
        second: named(&diff.second),
        bytes_shared: diff.bytes_shared,
        bytes_first_only: diff.bytes_first_only,
        bytes_second_only: diff.bytes_second_only,
        files_same: diff.files_same,
        files: diff.files.iter().map(file).collect(),
    }
}
