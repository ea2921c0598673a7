//! What differs between two checkpoints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::{Change, FileChange, MemorySource};

use crate::fake::Fake;
use crate::{RACKS, at, noise, put_options};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A safetensors file of bytes in these tensors: name, shape, bytes.
fn safetensors(tensors: &[(&str, &[usize], Bytes)]) -> Bytes {
    let (mut header, mut end) = (String::from("{"), 0);
    for (index, (name, shape, bytes)) in tensors.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let offsets = format!("[{end},{}]", end + bytes.len());
        write!(header, "{comma}\"{name}\":{{\"dtype\":\"U8\",\"shape\":{shape:?},").unwrap();
        write!(header, "\"data_offsets\":{offsets}}}").unwrap();
        end += bytes.len();
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    tensors.iter().for_each(|(_, _, bytes)| file.extend_from_slice(bytes));
    file.into()
}

fn source(files: &[(&str, Bytes)]) -> Arc<MemorySource> {
    let file = |(name, bytes): &(&str, Bytes)| (name.as_bytes().to_vec(), bytes.clone());
    Arc::new(MemorySource::new(files.iter().map(file).collect::<BTreeMap<_, _>>()).unwrap())
}

fn found<'a>(files: &'a [FileChange], name: &str) -> &'a FileChange {
    files.iter().find(|file| file.name == name.as_bytes()).expect(name)
}

#[tokio::test(start_paused = true)]
async fn files_and_tensors_that_differ_are_named() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let (large, other) = (noise(5 * MIB, 1), noise(5 * MIB, 2));
    let (small, tiny) = (noise(4 * KIB, 3), noise(100, 4));
    let model = |large: &Bytes, small: &Bytes, last: (&str, usize)| {
        safetensors(&[
            ("a.large", &[5, MIB], large.clone()),
            ("b.small", &[4, KIB], small.clone()),
            ("c.tiny", &[100], tiny.clone()),
            (last.0, &[last.1, MIB / last.1], noise(MIB, 5)),
        ])
    };
    let before = source(&[
        ("gone", noise(10, 6)),
        ("model", model(&large, &small, ("d.same", 1))),
        ("same", noise(3 * MIB, 7)),
        ("text", Bytes::from_static(b"one")),
    ]);
    client.put(before, put_options(1)).await.unwrap();
    let after = source(&[
        ("model", model(&other, &noise(4 * KIB, 8), ("d.same", 2))),
        ("new", noise(20, 9)),
        ("same", noise(3 * MIB, 7)),
        ("text", Bytes::from_static(b"two")),
    ]);
    client.put(after, put_options(2)).await.unwrap();

    let diff = client.diff(&at(1), &at(2), true).await.unwrap();
    let names: Vec<_> = diff.files.iter().map(|file| (&file.name[..], file.change)).collect();
    let wanted: [(&[u8], Change); 4] = [
        (b"gone", Change::Removed),
        (b"model", Change::Changed),
        (b"new", Change::Added),
        (b"text", Change::Changed),
    ];
    assert_eq!(names, wanted);
    assert_eq!((diff.files_same, found(&diff.files, "gone").bytes), (1, (10, 0)));
    assert_eq!(found(&diff.files, "text").tensors, None, "it is no safetensors file");
    let (tensors, same) = found(&diff.files, "model").tensors.clone().expect("tensors");
    let names: Vec<_> = tensors.iter().map(|it| (it.name.as_str(), it.change)).collect();
    // The tiny one shares a segment with what changed, and is read to see that it did not.
    let changed = ["a.large", "b.small", "d.same"].map(|name| (name, Change::Changed));
    assert_eq!((names, same), (changed.to_vec(), 1));
    let (was, is) = &tensors[2].form;
    assert_eq!((was.as_str(), is.as_str()), ("U8 [1, 1048576]", "U8 [2, 524288]"));

    let all = |shown: cairn_client::Shown| -> u64 {
        shown.segments.iter().map(|segment| u64::from(segment.len)).sum()
    };
    let second = all(client.show(&at(2)).await.unwrap());
    assert_eq!(diff.bytes_shared + diff.bytes_second_only, second);
    let without = client.diff(&at(1), &at(2), false).await.unwrap();
    assert_eq!(found(&without.files, "model").tensors, None);

    let nothing = client.diff(&at(2), &at(2), true).await.unwrap();
    assert_eq!((nothing.files.len(), nothing.files_same), (0, 4));
    assert_eq!((nothing.bytes_first_only, nothing.bytes_second_only), (0, 0));
    assert!(client.diff(&at(1), &at(9), true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn equal_tensors_that_were_cut_elsewhere_are_equal() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let (one, two) = (noise(300 * KIB, 1), noise(200 * KIB, 2));
    let whole = safetensors(&[("a", &[300, KIB], one.clone()), ("b", &[200, KIB], two.clone())]);
    // The same tensors behind another one: b is packed with other neighbours.
    let moved =
        safetensors(&[("0", &[7], noise(7, 3)), ("a", &[300, KIB], one), ("b", &[200, KIB], two)]);
    client.put(source(&[("m", whole)]), put_options(1)).await.unwrap();
    client.put(source(&[("m", moved)]), put_options(2)).await.unwrap();
    let diff = client.diff(&at(1), &at(2), true).await.unwrap();
    let (tensors, same) = diff.files[0].tensors.clone().expect("tensors");
    assert_eq!((tensors.len(), tensors[0].change, same), (1, Change::Added, 2));
}
