//! Listing checkpoints, a page at a time.

use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::Namespace;
use cairn_types::listing::{ListFilter, ListPlace, ListedStates};
use cairn_types::model::CheckpointInfo;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::answers;
use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// Checkpoints of one `List` page.
const LIST_PAGE: u32 = 500;

/// Which checkpoints to list: `ListOptions::default()` lists all that are committed.
///
/// ```
/// # use cairn_client::{LabelRule, ListOptions, ListedStates};
/// let mut options = ListOptions::below("llama/pretrain".parse()?);
/// options.filter.labels.push(LabelRule { key: "eval".into(), value: Some("done".into()) });
/// options.filter.states = ListedStates { quarantined: true, ..ListedStates::NONE };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// This namespace and those below it; all without one.
    pub prefix: Option<Namespace>,
    /// The nodes apply it.
    pub filter: ListFilter,
}

impl ListOptions {
    /// All that are committed in a namespace and those below it.
    pub fn below(prefix: Namespace) -> Self {
        Self { prefix: Some(prefix), ..Self::default() }
    }
}

/// Some of the checkpoints, ascending by (namespace, step, id).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListPage {
    pub checkpoints: Vec<CheckpointInfo>,
    /// Where the next page begins; `None` at the end. A node looks at a bounded number of records: a
    /// page may be empty and not the last one.
    pub next: Option<ListPlace>,
}

impl Client {
    /// One page behind `after` (`None` for the first) of at most `limit` checkpoints; 0 leaves the
    /// number to the node.
    pub fn list_page<'a>(
        &'a self,
        options: &'a ListOptions,
        after: Option<&'a ListPlace>,
        limit: u32,
    ) -> Answer<'a, ListPage> {
        Box::pin(async move {
            let ListOptions { prefix, filter } = options;
            let message = convert::list_request(prefix.as_ref(), filter, after, limit);
            let reply = self
                .read("list checkpoints", |mut stub, identity, deadline_ms| {
                    let message = wire::ListRequest { deadline_ms, ..message.clone() };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.list(request).await })
                })
                .await?;
            let page =
                page(reply).map_err(|error| malformed("list checkpoints", error.to_string()))?;
            answers::listed(options, after, limit, &page)
                .map_err(|problem| malformed("list checkpoints", problem))?;
            Ok(page)
        })
    }

    /// All checkpoints that the options ask for, ascending by (namespace, step). Nothing is asked
    /// before the stream is polled, and a page of 500 only once the one before is taken: a checkpoint
    /// committed meanwhile may be in it. An error ends the stream.
    pub fn list_by(
        &self,
        options: ListOptions,
    ) -> BoxStream<'static, Result<CheckpointInfo, ClientError>> {
        let client = self.clone();
        // The state is the place behind which the next page begins; `None` at the end.
        let pages = stream::try_unfold(Some(None), move |after: Option<Option<ListPlace>>| {
            let (client, options) = (client.clone(), options.clone());
            async move {
                let Some(after) = after else { return Ok::<_, ClientError>(None) };
                let page = client.list_page(&options, after.as_ref(), LIST_PAGE).await?;
                let found = stream::iter(page.checkpoints.into_iter().map(Ok));
                Ok(Some((found, page.next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    /// [`Client::list_by`] of what is committed below `prefix` (`None` for all); `open` lists uploads
    /// too.
    pub fn list(
        &self,
        prefix: Option<&Namespace>,
        open: bool,
    ) -> BoxStream<'static, Result<CheckpointInfo, ClientError>> {
        let states = ListedStates { open, ..ListedStates::default() };
        self.list_by(ListOptions { prefix: prefix.cloned(), filter: ListFilter::of(states) })
    }

    /// [`Client::list`] with deleted checkpoints, too, as long as their records are kept; what can
    /// still be undeleted says so.
    pub fn list_with_deleted(
        &self,
        prefix: Option<&Namespace>,
        open: bool,
    ) -> BoxStream<'static, Result<CheckpointInfo, ClientError>> {
        let states = ListedStates { open, deleted: true, ..ListedStates::default() };
        self.list_by(ListOptions { prefix: prefix.cloned(), filter: ListFilter::of(states) })
    }
}

fn page(reply: wire::ListReply) -> Result<ListPage, convert::ConvertError> {
    let infos = reply.checkpoints.into_iter().map(convert::info_from_wire);
    let next = convert::list_place_from_wire(&reply.next_namespace, reply.next_step, reply.next_id);
    Ok(ListPage { checkpoints: infos.collect::<Result<_, _>>()?, next: next? })
}
