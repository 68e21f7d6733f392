//! What is asked here and known elsewhere: put to the instance that owns it, or the client sent there, as `http.route` says.
//!
//! At most one hop: who is asked for another instance, or was named to a client by another one (the parameter [`VIA`]), answers by itself or
//! says that it can't. So a wrong guess about who owns what ends in an honest 503, and never goes round in a circle.

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use statehouse_dataflows::vocabulary::Partition;

use super::{
    Front,
    params::VIA,
    peers::HOP,
    problem::{self, Problem},
};
use crate::{config::RouteConfig, desk::Unavailable, log::directory::Instance};

/// What was asked, and by whom.
#[derive(Debug)]
pub(super) struct Asked {
    /// Path and query, as they came.
    pub(super) target: String,
    /// The instance that asks for a client, or that sent the client here.
    pub(super) hop: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let via = query.split('&').find_map(|pair| pair.strip_prefix(VIA)?.strip_prefix('='));
        let hop = parts.headers.get(HOP).map(|hop| String::from_utf8_lossy(hop.as_bytes()).into_owned());
        Ok(Self { target, hop: hop.or(via.map(str::to_owned)) })
    }
}

/// Answers what is asked about an object that could not be answered here, and why.
pub(super) async fn about(front: &Front, asked: &Asked, name: &str, why: Unavailable) -> Result<Response, Problem> {
    if !matches!(why, Unavailable::NotOwner(_) | Unavailable::Joining) {
        return Err(why.into());
    }
    if why == Unavailable::Joining && front.peers.instances().others().next().is_none() {
        return Err(why.into()); // it is just about to own all
    }
    let partition = front.desk.partition_of(name);
    let owner = owner(front, asked.hop.as_deref(), partition)?.ok_or(why)?;
    let peers = &front.peers;
    if peers.route == RouteConfig::Redirect {
        let url = peers.url(&owner)?;
        let joint = if asked.target.contains('?') { '&' } else { '?' };
        let here = peers.instances().here().to_owned();
        let location = HeaderValue::try_from(format!("{url}{}{joint}{VIA}={here}", asked.target));
        let location = location.map_err(|_| Problem::invalid("the target can't be written into a header"))?;
        return Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response());
    }
    let said = peers.ask(&owner, &asked.target, peers.patience).await;
    Ok(said.map_err(|problem| problem.with("partition", partition))?.into_response())
}

/// The other instance to ask about a partition that is not owned here; none: there is no directory.
///
/// # Errors
/// When nobody may be asked: says why.
pub(super) fn owner(front: &Front, hop: Option<&str>, partition: Partition) -> Result<Option<Instance>, Problem> {
    let instances = front.peers.instances();
    let Some(owner) = instances.owner(partition).filter(|owner| owner.id != instances.here()) else {
        if instances.partitions() == 0 {
            return Ok(None);
        }
        let detail = format!("partition {partition} has no owner now: it is changing hands");
        return Err(Problem::new(problem::NO_OWNER, detail).with("partition", partition));
    };
    let said = |kind, detail: String| {
        let problem = Problem::new(kind, detail).with("partition", partition).with("instance", owner.id.as_str());
        problem.with("url", owner.url.as_ref().map(ToString::to_string))
    };
    match hop {
        Some(hop) if hop == instances.here() => Err(said(
            problem::NO_OWNER,
            format!("the address of instance {} leads back to this one: it has ended, or its http.advertise is wrong", owner.id),
        )),
        Some(hop) => Err(said(
            problem::NO_OWNER,
            format!(
                "instance {hop} takes this one for the owner of partition {partition}, which is not so (any more): it is changing hands"
            ),
        )),
        None if front.peers.route == RouteConfig::Local => {
            Err(said(problem::NOT_OWNER, format!("partition {partition} is owned by another instance, {}", owner.id)))
        }
        None => Ok(Some(owner.clone())),
    }
}
