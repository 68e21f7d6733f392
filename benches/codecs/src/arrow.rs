//! Rows as an Arrow record batch in the IPC stream format, its buffers compressed with lz4 by itself; agents and states in dictionaries.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Int64Array, RecordBatch, StringArray, UInt8Array, UInt64Array,
    cast::AsArray,
    types::{Int32Type, Int64Type, UInt8Type, UInt64Type},
};
use arrow_ipc::{
    CompressionType,
    reader::StreamReader,
    writer::{IpcWriteOptions, StreamWriter},
};
use statehouse_dataflows::vocabulary::Row;

use crate::flat::{Borrowed, BorrowedPublished, Flat, borrowed, rows};

pub(crate) fn write(flat: &[Flat]) -> Vec<u8> {
    let rows: Vec<_> = flat.iter().map(borrowed).collect();
    let names = |of: &dyn Fn(&Borrowed<'_>) -> Option<String>| -> ArrayRef {
        let texts: Vec<Option<String>> = rows.iter().map(of).collect();
        Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())
    };
    let numbers = |of: &dyn Fn(&Borrowed<'_>) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
    let owned = |text: &str| text.to_owned();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("object", Arc::new(rows.iter().map(|row| Some(row.object)).collect::<StringArray>())),
        ("agent", names(&|row| row.report.map(|(agent, _)| owned(agent)))),
        ("state", names(&|row| row.report_of().map(|(state, ..)| owned(state)))),
        ("ts_ms", numbers(&|row| row.report_of().map(|(_, ts_ms, ..)| ts_ms))),
        ("offset", numbers(&|row| row.report_of().map(|(_, _, offset, _)| offset))),
        ("due_ms", numbers(&|row| row.report_of().and_then(|(.., due_ms)| due_ms))),
        ("is_published", Arc::new(rows.iter().map(|row| Some(row.published.is_some())).collect::<BooleanArray>())),
        ("published", names(&|row| row.published.as_ref().and_then(|row| row.state.map(owned)))),
        ("behind", names(&|row| row.published.as_ref().and_then(|row| row.behind.map(owned)))),
        ("mask", names(&|row| row.published.as_ref().and_then(|row| row.mask.map(|(state, ..)| owned(state))))),
        ("mask_since_ms", numbers(&|row| row.published.as_ref().and_then(|row| row.mask.map(|(_, since_ms, _)| since_ms)))),
        ("mask_until_ms", numbers(&|row| row.published.as_ref().and_then(|row| row.mask.and_then(|(.., until_ms)| until_ms)))),
        ("since_ms", numbers(&|row| row.published.as_ref().map(|row| row.since_ms))),
        ("cause", Arc::new(rows.iter().map(|row| row.published.as_ref().map(|row| row.cause)).collect::<UInt8Array>())),
        ("revision", Arc::new(rows.iter().map(|row| row.published.as_ref().map(|row| row.revision)).collect::<UInt64Array>())),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).expect("one length");
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).expect("built in");
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).expect("memory");
    writer.write(&batch).expect("memory");
    writer.into_inner().expect("memory")
}

pub(crate) fn read(bytes: &[u8]) -> Vec<Row> {
    let batch = StreamReader::try_new(bytes, None).expect("just written").next().expect("one batch").expect("just written");
    let column = |name: &str| Arc::clone(batch.column_by_name(name).expect("just written"));
    let [object, is_published] = ["object", "is_published"].map(column);
    let (object, is_published) = (object.as_string::<i32>(), is_published.as_boolean());
    let named = ["agent", "state", "published", "behind", "mask"].map(column);
    let [agent, state, posted, behind, mask] = [0, 1, 2, 3, 4].map(|at| Dictionary::of(&named[at]));
    let numbered = ["ts_ms", "offset", "due_ms", "mask_since_ms", "mask_until_ms", "since_ms"].map(column);
    let number = |at: usize, row: usize| {
        let array = numbered[at].as_primitive::<Int64Type>();
        array.is_valid(row).then(|| array.value(row))
    };
    let [cause, revision] = ["cause", "revision"].map(column);
    let (cause, revision) = (cause.as_primitive::<UInt8Type>(), revision.as_primitive::<UInt64Type>());
    rows((0..batch.num_rows()).map(|row| Borrowed {
        object: object.value(row),
        report: agent.text(row).map(|agent| {
            let told = |at| number(at, row).expect("a report has it");
            (agent, state.text(row).map(|state| (state, told(0), told(1), number(2, row))))
        }),
        published: is_published.value(row).then(|| BorrowedPublished {
            state: posted.text(row),
            behind: behind.text(row),
            mask: mask.text(row).map(|state| (state, number(3, row).expect("a mask has it"), number(4, row))),
            since_ms: number(5, row).expect("it is published"),
            cause: cause.value(row),
            revision: revision.value(row),
        }),
    }))
}

/// A column of names.
struct Dictionary<'a> {
    keys: &'a arrow_array::PrimitiveArray<Int32Type>,
    values: &'a StringArray,
}

impl<'a> Dictionary<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        let array = array.as_dictionary::<Int32Type>();
        Self { keys: array.keys(), values: array.values().as_string::<i32>() }
    }

    fn text(&self, row: usize) -> Option<&'a str> {
        self.keys.is_valid(row).then(|| self.values.value(self.keys.value(row) as usize))
    }
}

impl<'a> Borrowed<'a> {
    fn report_of(&self) -> Option<(&'a str, i64, i64, Option<i64>)> {
        self.report.and_then(|(_, report)| report)
    }
}
