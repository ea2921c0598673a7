//! `Stage`: registers segments of a part before any byte moves.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{
    ConvertError, at_most, digest_from_wire, digest_to_wire, segment_len_from_wire,
};
use crate::form::{Codecs, Form};
use crate::ids::{Attempt, CheckpointId, NodeId, Run, SegmentDigest};
#[cfg(test)]
use crate::limits::SEGMENT_BYTES_MAX;
use crate::limits::{BATCH_SEGMENTS_MAX, REPLICAS_MAX};
use crate::wire;

/// Registers segments of a part before any byte moves. Of a committed checkpoint: gives slots
/// to those of its segments that lack a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    pub part: u32,
    pub run: Run,
    pub segments: Vec<StageSegment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSegment {
    pub digest: SegmentDigest,
    /// In which the client would send it. A record that exists keeps its own.
    pub form: Form,
    /// Nodes the leader chose for the slots this segment lacks; empty where it lacks none.
    pub targets: Vec<NodeId>,
}

impl OnWire for Stage {
    type Message = wire::Stage;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, attempt, part, run, segments } = self;
        wire::Stage {
            checkpoint: checkpoint.0,
            attempt: attempt.0,
            part: *part,
            run: run.0,
            segments: segments.iter().map(stage_to_wire).collect(),
        }
    }

    /// That of its newest codec: no node has to apply a form that it does not know.
    fn feature_level(&self, in_table: u32) -> u32 {
        in_table.max(newest(&self.segments, Codecs::KNOWN))
    }

    fn from_wire(stage: Self::Message) -> Result<Self, ConvertError> {
        at_most("segments", stage.segments.len(), BATCH_SEGMENTS_MAX)?;
        Ok(Self {
            checkpoint: CheckpointId(stage.checkpoint),
            attempt: Attempt(stage.attempt),
            part: stage.part,
            run: Run(stage.run),
            segments: stage.segments.iter().map(stage_from_wire).collect::<Result<_, _>>()?,
        })
    }
}

fn newest(segments: &[StageSegment], codecs: Codecs) -> u32 {
    segments.iter().map(|segment| codecs.feature_level(segment.form.codec())).max().unwrap_or(0)
}

fn stage_to_wire(segment: &StageSegment) -> wire::StageSegment {
    wire::StageSegment {
        digest: digest_to_wire(&segment.digest),
        len: segment.form.raw_len(),
        targets: segment.targets.iter().map(|node| node.0).collect(),
        codec: segment.form.codec().number(),
        stored_len: if segment.form.is_raw() { 0 } else { segment.form.stored_len() },
    }
}

fn stage_from_wire(segment: &wire::StageSegment) -> Result<StageSegment, ConvertError> {
    at_most("targets", segment.targets.len(), REPLICAS_MAX as usize)?;
    let len = segment_len_from_wire(segment.len)?;
    let form = match (segment.codec, segment.stored_len) {
        (0, 0) => Form::raw(len),
        (codec, stored_len) => Codecs::KNOWN.form(codec, len, stored_len)?,
    };
    Ok(StageSegment {
        digest: digest_from_wire("segment digest", &segment.digest)?,
        form,
        targets: segment.targets.iter().copied().map(NodeId).collect(),
    })
}

#[cfg(test)]
impl Drawn for Stage {
    fn drawn(draw: &mut Draw) -> Self {
        let checkpoint = CheckpointId(draw.u64());
        let attempt = Attempt(draw.u64());
        let run = Run(draw.u64());
        let part = draw.u32();
        Self {
            checkpoint,
            attempt,
            part,
            run,
            segments: draw.list(|draw| StageSegment {
                digest: draw.digest(),
                form: Form::raw(draw.below(SEGMENT_BYTES_MAX as u32) + 1),
                targets: draw.list(|draw| NodeId(draw.u64())),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::form::{Codec, Coding};

    fn staged(form: Form) -> StageSegment {
        StageSegment { digest: SegmentDigest([0xab; 32]), form, targets: vec![NodeId(3)] }
    }

    /// The bytes of a build that knows no forms, so that a mixed cluster takes them.
    #[test]
    fn a_raw_stage_has_no_trace_of_a_form() {
        let raw = staged(Form::raw(9));
        let message = stage_to_wire(&raw);
        let want = format!("0a20{}10091a0103", "ab".repeat(32));
        assert_eq!(hex::encode(message.encode_to_vec()), want);
        assert_eq!(stage_from_wire(&message), Ok(raw));
    }

    #[test]
    fn a_stage_needs_the_level_of_its_newest_codec() {
        let coding = |number, feature_level| Coding {
            codec: Codec::new(number),
            feature_level,
            encode: |_| None,
            decode: |_, _| false,
        };
        let table: &'static [Coding] = Box::leak(Box::new([coding(7, 3), coding(8, 5)]));
        let level = |codecs: &[u32]| {
            let form = |codec: &u32| match codec {
                0 => Form::raw(9),
                codec => Form::told(*codec, 9, 5).unwrap(),
            };
            let segments: Vec<_> = codecs.iter().map(form).map(staged).collect();
            newest(&segments, Codecs::new(table))
        };
        assert_eq!([level(&[]), level(&[0, 0]), level(&[0, 7]), level(&[8, 0, 7])], [0, 1, 3, 5]);
    }
}
