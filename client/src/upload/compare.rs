//! A put of something that may be there: comparing it with the commit, and counting what would be
//! sent.

use cairn_types::command::{Begun, Refusal};
use cairn_types::model::{CheckpointInfo, Durability, SealedPart};
use cairn_types::policy::effective_policy;
use tokio::time::{Instant, sleep};

use super::manifest::Described;
use super::pipeline::Item;
use super::{POLL, Put, PutOutcome, PutReport};
use crate::catalogue::LocatedSegment;
use crate::error::ClientError;

impl Put {
    /// The step is committed already: success if this part is the same, else `refusal`.
    pub(super) async fn compare_committed(
        &self,
        refusal: Refusal,
    ) -> Result<PutReport, ClientError> {
        let described = self.describe().await?;
        let info = self.client.resolve(&self.options.address()).await?;
        let same = |part: &SealedPart| {
            part.set_digest == described.set_digest && part.manifest == described.place
        };
        let part = info.parts.get(self.options.part as usize);
        if info.parts.len() != self.options.parts as usize || !part.is_some_and(same) {
            return Err(ClientError::Refused(refusal));
        }
        self.check_terms(&info)?;
        let durability = self.heal(&info, &described).await?;
        let outcome = PutOutcome::AlreadyCommitted { durability };
        self.finish((info.id, info.attempt), outcome, &described).await
    }

    /// Whether what this put asks for beside its data is what the committed checkpoint has. What it
    /// does not name may be anything.
    fn check_terms(&self, info: &CheckpointInfo) -> Result<(), ClientError> {
        let (change, policy) = (&self.options.change, &info.policy);
        let number = |wanted: Option<u32>| wanted.map(|wanted| wanted.to_string());
        let terms = [
            ("the number of replicas", number(change.replicas), policy.replicas.to_string()),
            ("the write quorum", number(change.write_quorum), policy.write_quorum.to_string()),
            ("the rack minimum", number(change.min_racks), policy.min_racks.to_string()),
            (
                "isolation",
                change.isolation.map(|wanted| wanted.to_string()),
                policy.isolation.to_string(),
            ),
            // 0 keeps all, as no rule does.
            ("keep-last", number(change.keep_last), policy.keep_last.unwrap_or(0).to_string()),
        ];
        let terms = terms.map(|(what, got, current)| (what.to_owned(), got, current));
        // Labels are not among them: they may have been changed since by `annotate`.
        for (what, got, current) in terms {
            if let Some(got) = got.filter(|got| *got != current) {
                return Err(ClientError::Refused(Refusal::OtherTerms { what, got, current }));
            }
        }
        Ok(())
    }

    /// Sends again what no longer has a quorum of replicas that count; the durability then.
    async fn heal(
        &self,
        info: &CheckpointInfo,
        described: &Described,
    ) -> Result<Durability, ClientError> {
        if self.lacking(info, described).await? == 0 {
            return Ok(info.durability);
        }
        let begun = Begun {
            checkpoint: info.id,
            attempt: info.attempt,
            policy: info.policy.clone(),
            parts: self.options.parts,
            first_part: 0,
            sealed: Vec::new(),
            committed: true,
        };
        let mut pipeline = self.pipeline(&begun);
        pipeline.set_manifest(described.manifest_segments.clone());
        let manifest = (0..described.manifest_segments.len()).map(Item::Manifest);
        let items = self.feed.planned().into_iter().chain(manifest).collect();
        pipeline.transfer(items, false).await?;
        let started = Instant::now();
        loop {
            let lacking = self.lacking(info, described).await?;
            if lacking == 0 {
                return Ok(self.client.resolve(&self.options.address()).await?.durability);
            }
            if self.client.options.deadline.is_some_and(|limit| started.elapsed() > limit) {
                let last = format!("segments with missing replicas: {lacking}");
                return Err(ClientError::Timeout { what: "put again".to_owned(), last });
            }
            sleep(self.client.env.jitter(POLL)).await;
        }
    }

    /// How many of this part's segments have fewer than a quorum of replicas that count.
    async fn lacking(
        &self,
        info: &CheckpointInfo,
        described: &Described,
    ) -> Result<u64, ClientError> {
        let quorum = info.policy.write_quorum;
        let digests: Vec<_> = described.set.keys().copied().collect();
        let located = self.client.about(info.id).locate(&digests).await?;
        self.client.status().await?;
        let nodes = self.client.nodes();
        let lacks = |located: &&LocatedSegment| !located.has_counting(&nodes, quorum);
        Ok(located.iter().filter(lacks).count() as u64)
    }

    /// What would be sent.
    pub(super) async fn dry_run(&self) -> Result<PutReport, ClientError> {
        let described = self.describe().await?;
        let digests: Vec<_> = described.set.keys().copied().collect();
        // Who is up, and what the namespace asks for.
        self.client.status().await?;
        let base = self.client.policy(&self.options.namespace).await?;
        let policy = effective_policy(&base, &self.options.change)?;
        let nodes = self.client.nodes();
        let (mut sent, mut kept) = ((0, 0), (0, 0));
        for located in self.client.locate(&digests).await? {
            let there = located.has_counting(&nodes, policy.write_quorum);
            let count = if there { &mut kept } else { &mut sent };
            count.0 += 1;
            count.1 += described.set.get(&located.digest).map_or(0, |len| u64::from(*len));
        }
        Ok(self.report(None, PutOutcome::DryRun, None, &described, sent, kept))
    }
}
