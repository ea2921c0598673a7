//! `cairn token init|new|attenuate|show|ls|revoke|require|rm-issuer`

use std::path::{Path, PathBuf};

use cairn_client::{IssuerInfo, RevokedInfo, TokensInfo};
use cairn_host::token::{Claims, IssuerKey, Token, Verified};
use cairn_types::ids::{Namespace, TokenId};
use cairn_types::limits::TOKEN_VALID_MS_MAX;
use cairn_types::rights::{Grant, Right, Rights};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::address::now_ms;
use crate::credentials::file_failure;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plural, table, wall_time};
use crate::session::Session;
use crate::{foreign, secret_file};

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Write a new issuer's key to FILE and have the cluster take its tokens; an existing FILE is used
    /// as it is
    Init(InitArgs),
    /// Make a token, such as
    /// `cairn token new --subject ci --right write --namespace team/ --ttl 30d`. Talks to no cluster
    New(NewArgs),
    /// Make a narrower token from the one in --token-file or CAIRN_TOKEN: fewer rights, fewer namespaces
    /// or less time, such as `cairn token attenuate --right read --namespace team/run1 --ttl 2h`. The new
    /// one never has more than the given one, and ends with it. Talks to no cluster
    Attenuate(AttenuateArgs),
    /// Print what the token that is given says. Talks to no cluster
    Show,
    /// List issuers, and tokens that were revoked
    Ls,
    /// End a token, and all that were made from it
    Revoke(RevokeArgs),
    /// Set whether clients without a token have rights
    Require(RequireArgs),
    /// Take no tokens of an issuer any more; all that it made end
    RmIssuer(RmIssuerArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// The issuer's key: a secret of the operators. Nodes and clients do not need it
    file: PathBuf,
    /// Name of the issuer, for lists
    #[arg(long, default_value = "operators")]
    name: String,
}

#[derive(Debug, Args)]
struct NewArgs {
    /// Whom it is for: a person, a job or a service. An upload belongs to the subject that began it
    #[arg(long)]
    subject: String,
    #[arg(
        long = "right",
        value_name = "RIGHT",
        required = true,
        value_delimiter = ',',
        help = "What it may do: read, write, delete or operate; repeat it for more than one. operate \
                includes the others, apart from that none includes another"
    )]
    rights: Vec<Right>,
    /// Where it may do that: in this namespace and those below it; repeat it for more than one
    #[arg(
        long = "namespace",
        value_name = "NAMESPACE",
        value_parser = namespace,
        required_unless_present = "every_namespace"
    )]
    namespaces: Vec<Namespace>,
    /// Everywhere, also in namespaces that come later
    #[arg(long, conflicts_with = "namespaces")]
    every_namespace: bool,
    /// How long it is valid, such as 12h or 30d; 400 days at most. Clocks differ: nodes take it from 60 s
    /// before it begins until 60 s after it ends
    #[arg(long, value_name = "TIME", default_value = "30d")]
    ttl: humantime::Duration,
    /// The issuer's key, as `cairn token init` wrote it
    #[arg(long, env = "CAIRN_ISSUER_KEY", value_name = "FILE")]
    issuer: PathBuf,
    /// Write the token to this new file, readable by its owner only [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AttenuateArgs {
    /// What it may do: some of read, write, delete, operate [default: what the given one may]
    #[arg(long = "right", value_name = "RIGHT", value_delimiter = ',')]
    rights: Vec<Right>,
    /// In this namespace and those below it only [default: where the given one may]
    #[arg(long = "namespace", value_name = "NAMESPACE", value_parser = namespace)]
    namespaces: Vec<Namespace>,
    /// How long it is valid, from now on, and 60 s longer as clocks differ [default: as long as the given
    /// one]
    #[arg(long, value_name = "TIME")]
    ttl: Option<humantime::Duration>,
    /// Write the token to this new file, readable by its owner only [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Its id, as `cairn token show` and `new` print it, or a file with it
    #[arg(value_name = "ID|FILE")]
    token: String,
    /// Why, for `cairn token ls`
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Args)]
struct RequireArgs {
    /// on: the cluster key alone gives a client no rights but to manage tokens. Running clients and agents
    /// without a token are refused from then on, so give them tokens first. Nodes need none
    required: Switch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
struct RmIssuerArgs {
    /// As `cairn token ls` lists it
    name: String,
}

/// A namespace, also with the slash that says "and all below".
fn namespace(text: &str) -> Result<Namespace, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    text.parse().map_err(|error: cairn_types::ids::NameError| error.to_string())
}

pub fn run(session: &Session, args: TokenArgs) -> Outcome {
    match args.verb {
        TokenVerb::Init(args) => init(session, &args),
        TokenVerb::New(args) => new(session, args),
        TokenVerb::Attenuate(args) => attenuate(session, args),
        TokenVerb::Show => show(session),
        TokenVerb::Ls => list(session),
        TokenVerb::Revoke(args) => revoke(session, &args),
        TokenVerb::Require(args) => require(session, args.required == Switch::On),
        TokenVerb::RmIssuer(args) => rm_issuer(session, &args.name),
    }
}

fn init(session: &Session, args: &InitArgs) -> Outcome {
    let InitArgs { file, name } = args;
    if !file.exists() {
        secret_file::write(file, &IssuerKey::generate().to_text())?;
        session.output.say(format!("wrote {}: keep it with the operators", file.display()));
    }
    let key = issuer_key(session, file)?;
    let public = key.public();
    session.with_client(async |client| client.set_issuer(name, Some(public)).await)?;
    let id = TokenId::of_key(&public).to_string();
    session.output.result(&IssuerDocument { name, id: &id, since_ms: None }, || {
        format!("the cluster takes tokens of {}, key {id}\n", foreign::text(name))
    })?;
    Ok(Exit::Ok)
}

fn issuer_key(session: &Session, file: &Path) -> Result<IssuerKey, Failure> {
    let key = IssuerKey::load(file).map_err(file_failure)?;
    secret_file::warn_if_open(&session.output, file);
    Ok(key)
}

fn new(session: &Session, args: NewArgs) -> Outcome {
    let key = issuer_key(session, &args.issuer)?;
    let issued_ms = now_ms();
    let grant = Grant { rights: args.rights.into_iter().collect(), namespaces: args.namespaces };
    let expires_ms = issued_ms.saturating_add(millis(args.ttl)?);
    let claims = Claims { subject: args.subject, grant, issued_ms, expires_ms };
    let token = key.issue(&claims).map_err(Failure::usage)?;
    give(session, &token, args.out.as_deref())
}

fn millis(ttl: humantime::Duration) -> Result<u64, Failure> {
    let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    match (1..=TOKEN_VALID_MS_MAX).contains(&ms) {
        true => Ok(ms),
        false => Err(Failure::usage(format!("--ttl {ttl}: wants 1ms to 400d"))),
    }
}

fn attenuate(session: &Session, args: AttenuateArgs) -> Outcome {
    let held = held(session)?;
    let rights = (!args.rights.is_empty()).then(|| Rights::from_iter(args.rights));
    let namespaces = (!args.namespaces.is_empty()).then_some(args.namespaces);
    let expires_ms = args.ttl.map(millis).transpose()?.map(|ms| now_ms().saturating_add(ms));
    let narrowed = held.attenuate(rights, namespaces, expires_ms).map_err(|error| {
        Failure::usage(error).with_hint("`cairn token show` prints what the given one may do")
    })?;
    give(session, &narrowed, args.out.as_deref())
}

fn held(session: &Session) -> Result<Token, Failure> {
    session.token()?.ok_or_else(|| {
        Failure::usage("no token is given").with_hint("give --token-file FILE, or set CAIRN_TOKEN")
    })
}

/// Hands a token out: to its file, or as what is printed.
fn give(session: &Session, token: &Token, out: Option<&Path>) -> Outcome {
    let claims = token.claims().map_err(Failure::usage)?;
    let text = token.to_text();
    match out {
        Some(path) => {
            secret_file::write(path, &text)?;
            let document = TokenDocument { token: None, ..TokenDocument::of(&claims) };
            session.output.result(&document, || shown(&claims))?;
            session.output.say(format!("wrote {}", path.display()));
        }
        None => {
            let document = TokenDocument { token: Some(&text), ..TokenDocument::of(&claims) };
            session.output.result(&document, || format!("{text}\n"))?;
            session.output.say(shown(&claims).trim_end());
        }
    }
    Ok(Exit::Ok)
}

fn show(session: &Session) -> Outcome {
    let claims = held(session)?.claims().map_err(Failure::usage)?;
    session.output.result(&TokenDocument::of(&claims), || shown(&claims))?;
    if let Err(error) = claims.check_time(now_ms()) {
        session.output.say(format!("warning: {error}"));
    }
    Ok(Exit::Ok)
}

fn shown(claims: &Verified) -> String {
    let Verified { subject, issued_ms, expires_ms } = claims;
    let places: Vec<String> = subject.grant.namespaces.iter().map(|it| format!("{it}/")).collect();
    let places = if places.is_empty() { "every namespace".to_owned() } else { places.join(", ") };
    let rows = [
        ("subject", foreign::text(&subject.name)),
        ("rights", subject.grant.rights.to_string()),
        ("namespaces", places),
        ("issued", wall_time(*issued_ms)),
        ("expires", wall_time(*expires_ms)),
        ("issuer", subject.issuer.to_string()),
        ("id", id(claims).to_string()),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let parents = subject.tokens.len().saturating_sub(1) as u64;
    match parents {
        0 => table(&rows),
        count => format!("{}narrowed {}\n", table(&rows), plural(count, "time")),
    }
}

/// By which it is revoked: that of its last block, so that the one it was made from stays.
fn id(claims: &Verified) -> TokenId {
    claims.subject.tokens.last().copied().unwrap_or_default()
}

fn list(session: &Session) -> Outcome {
    let info = session.with_client(async |client| client.tokens().await)?;
    session.output.result(&TokensDocument::of(&info), || listed(&info))?;
    Ok(Exit::Ok)
}

fn listed(info: &TokensInfo) -> String {
    let mut text = String::new();
    let row = |cells: &[&str]| cells.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    if !info.issuers.is_empty() {
        let mut rows = vec![row(&["ISSUER", "KEY", "SINCE"])];
        rows.extend(info.issuers.iter().map(|issuer| {
            let id = TokenId::of_key(&issuer.key).to_string();
            row(&[&foreign::text(&issuer.name), &id, &wall_time(issuer.wall_ms)])
        }));
        text.push_str(&table(&rows));
    }
    if !info.revoked.is_empty() {
        let mut rows = vec![row(&["REVOKED", "AT", "BY", "REASON"])];
        rows.extend(info.revoked.iter().map(|it| {
            let (by, reason) = (foreign::text(&it.by), foreign::text(&it.reason));
            row(&[&it.token.to_string(), &wall_time(it.wall_ms), &by, &reason])
        }));
        text.push_str(&table(&rows));
    }
    let required = match info.required {
        true => "clients without a token have no rights",
        false => "clients without a token, with the cluster key, have all rights",
    };
    format!("{text}{required}\n")
}

fn revoke(session: &Session, args: &RevokeArgs) -> Outcome {
    let (token, until_ms) = match args.token.parse::<TokenId>() {
        Ok(id) => (id, 0),
        Err(_) => {
            let token = Token::load(Path::new(&args.token)).map_err(file_failure)?;
            let claims = token.claims().map_err(Failure::usage)?;
            (id(&claims), claims.expires_ms)
        }
    };
    let reason = &args.reason;
    session.with_client(async |client| client.revoke_token(token, until_ms, reason).await)?;
    let text = token.to_string();
    session.output.result(&RevokedDocument { id: &text }, || format!("{text} is revoked\n"))?;
    Ok(Exit::Ok)
}

fn require(session: &Session, required: bool) -> Outcome {
    session.with_client(async |client| client.require_tokens(required).await)?;
    session.output.result(&RequiredDocument { required }, || match required {
        true => "clients without a token have no rights now, but to manage tokens\n".to_owned(),
        false => "clients with the cluster key have all rights now\n".to_owned(),
    })?;
    if required {
        session.output.say(
            "warning: programs and agents that run without a token are refused from now on;\n\
             `cairn token require off`, with the cluster key, takes this back",
        );
    }
    Ok(Exit::Ok)
}

fn rm_issuer(session: &Session, name: &str) -> Outcome {
    session.with_client(async |client| client.set_issuer(name, None).await)?;
    session.output.result(&IssuerRemoved { name }, || {
        format!("tokens of {} are not taken any more\n", foreign::text(name))
    })?;
    Ok(Exit::Ok)
}

/// `token new`, `attenuate` and `show`.
#[derive(Serialize)]
struct TokenDocument<'a> {
    token: Option<&'a str>,
    id: String,
    issuer: String,
    subject: &'a str,
    rights: Vec<&'static str>,
    namespaces: Vec<&'a str>,
    issued_ms: u64,
    expires_ms: u64,
    parents: Vec<String>,
}

impl<'a> TokenDocument<'a> {
    fn of(claims: &'a Verified) -> Self {
        let Verified { subject, issued_ms, expires_ms } = claims;
        let parents = subject.tokens.len().saturating_sub(1);
        Self {
            token: None,
            id: id(claims).to_string(),
            issuer: subject.issuer.to_string(),
            subject: &subject.name,
            rights: subject.grant.rights.iter().map(Right::word).collect(),
            namespaces: subject.grant.namespaces.iter().map(Namespace::as_str).collect(),
            issued_ms: *issued_ms,
            expires_ms: *expires_ms,
            parents: subject.tokens[..parents].iter().map(ToString::to_string).collect(),
        }
    }
}

/// `token init`, and an issuer of `token ls`.
#[derive(Serialize)]
struct IssuerDocument<'a> {
    name: &'a str,
    id: &'a str,
    since_ms: Option<u64>,
}

/// `token ls`.
#[derive(Serialize)]
struct TokensDocument {
    required: bool,
    issuers: Vec<IssuerRecord>,
    revoked: Vec<RevokedRecord>,
}

#[derive(Serialize)]
struct IssuerRecord {
    name: String,
    id: String,
    since_ms: u64,
}

#[derive(Serialize)]
struct RevokedRecord {
    id: String,
    reason: String,
    by: String,
    revoked_ms: u64,
    until_ms: u64,
}

impl TokensDocument {
    fn of(info: &TokensInfo) -> Self {
        let issuer = |it: &IssuerInfo| IssuerRecord {
            name: it.name.clone(),
            id: TokenId::of_key(&it.key).to_string(),
            since_ms: it.wall_ms,
        };
        let revoked = |it: &RevokedInfo| RevokedRecord {
            id: it.token.to_string(),
            reason: it.reason.clone(),
            by: it.by.clone(),
            revoked_ms: it.wall_ms,
            until_ms: it.until_ms,
        };
        Self {
            required: info.required,
            issuers: info.issuers.iter().map(issuer).collect(),
            revoked: info.revoked.iter().map(revoked).collect(),
        }
    }
}

/// `token revoke`.
#[derive(Serialize)]
struct RevokedDocument<'a> {
    id: &'a str,
}

/// `token require`.
#[derive(Serialize)]
struct RequiredDocument {
    required: bool,
}

/// `token rm-issuer`.
#[derive(Serialize)]
struct IssuerRemoved<'a> {
    name: &'a str,
}
