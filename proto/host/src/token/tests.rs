//! A token is good as it was signed, in every narrower form, and in no other.

use cairn_types::rights::Right;

use super::*;

const DAY_MS: u64 = 86_400_000;

fn grant(rights: &[Right], namespaces: &[&str]) -> Grant {
    let namespaces = namespaces.iter().map(|name| name.parse().unwrap()).collect();
    Grant { rights: rights.iter().copied().collect(), namespaces }
}

fn claims() -> Claims {
    Claims {
        subject: "ci".into(),
        grant: grant(&[Right::Read, Right::Write], &["team"]),
        issued_ms: 100 * DAY_MS,
        expires_ms: 130 * DAY_MS,
    }
}

fn only(right: Right) -> Option<Rights> {
    Some(Rights::from_iter([right]))
}

#[test]
fn a_token_says_what_its_issuer_signed() {
    let issuer = IssuerKey::generate();
    let token = issuer.issue(&claims()).unwrap();
    let back = Token::from_text(&format!(" {}\n", token.to_text())).unwrap();
    let verified = back.verify(&issuer.public()).unwrap();
    assert_eq!(verified.subject.name, "ci");
    assert_eq!(verified.subject.grant, claims().grant);
    assert_eq!(verified.subject.issuer, TokenId::of_key(&issuer.public()));
    assert_eq!((verified.issued_ms, verified.expires_ms), (100 * DAY_MS, 130 * DAY_MS));
    assert_eq!(Token::from_header(&token.to_header()), Ok(token.clone()));
    let other = issuer.issue(&claims()).unwrap().verify(&issuer.public()).unwrap();
    assert_ne!(other.subject.tokens, verified.subject.tokens, "each has an id of its own");
    // Nothing of a secret is printed.
    assert_eq!(format!("{token:?} {issuer:?}"), "Token(..) IssuerKey(..)");
    assert_eq!(IssuerKey::from_text(&issuer.to_text()).unwrap().public(), issuer.public());
}

#[test]
fn a_token_of_another_issuer_is_refused_even_under_the_same_name() {
    let (issuer, other) = (IssuerKey::generate(), IssuerKey::generate());
    let token = other.issue(&claims()).unwrap();
    assert!(matches!(token.verify(&issuer.public()), Err(TokenError::Malformed(_))));
    // It claims the right issuer, and its key did not sign.
    let mut first = payload(&token.blocks[0]).unwrap();
    first.issuer = id_to_wire(TokenId::of_key(&issuer.public()));
    let forged = Token { blocks: vec![signed(&other.0, &[], first)], proof: token.proof };
    assert_eq!(forged.verify(&issuer.public()), Err(TokenError::Signature(0)));
}

#[test]
fn a_holder_narrows_a_token_without_the_issuer() {
    let issuer = IssuerKey::generate();
    let token = issuer.issue(&claims()).unwrap();
    let run = vec!["team/run".parse().unwrap()];
    let narrow = token.attenuate(only(Right::Write), Some(run), Some(101 * DAY_MS)).unwrap();
    let verified = narrow.verify(&issuer.public()).unwrap();
    assert_eq!(verified.subject.grant, grant(&[Right::Write], &["team/run"]));
    assert_eq!((verified.subject.name.as_str(), verified.expires_ms), ("ci", 101 * DAY_MS));
    let parent = token.verify(&issuer.public()).unwrap().subject.tokens;
    assert_eq!(verified.subject.tokens[..1], parent, "revoking the first revokes both");
    assert_eq!(verified.subject.tokens.len(), 2);
    // As it is, it is passed on with a number of its own.
    let same = token.attenuate(None, None, None).unwrap().verify(&issuer.public()).unwrap();
    assert_eq!(same.subject.grant, claims().grant);
}

#[test]
fn nobody_widens_a_token() {
    let issuer = IssuerKey::generate();
    let narrow = issuer.issue(&claims()).unwrap().attenuate(only(Right::Write), None, None);
    let narrow = narrow.unwrap();
    let wider = [
        narrow.attenuate(only(Right::Read), None, None),
        narrow.attenuate(only(Right::Delete), None, None),
        narrow.attenuate(None, Some(vec![]), None),
        narrow.attenuate(None, Some(vec!["other".parse().unwrap()]), None),
        narrow.attenuate(None, None, Some(130 * DAY_MS + 1)),
    ];
    for token in wider {
        assert_eq!(token, Err(TokenError::Wider(2)));
    }
    // Signed all the same, by a holder's own program.
    let mut more = grant_to_wire(&grant(&[Right::Operate], &[]), 130 * DAY_MS);
    let next = Seed::new();
    more.next_key = Bytes::copy_from_slice(&next.public());
    let mut blocks = narrow.blocks.clone();
    blocks.push(signed(&narrow.proof, &blocks[1].signature.clone(), more));
    let forged = Token { blocks, proof: next };
    assert_eq!(forged.verify(&issuer.public()), Err(TokenError::Wider(2)));
}

#[test]
fn nobody_takes_a_block_off_or_moves_it() {
    let issuer = IssuerKey::generate();
    let token = issuer.issue(&claims()).unwrap();
    let narrow = token.attenuate(only(Right::Read), None, None).unwrap();
    let narrower = narrow.attenuate(None, None, Some(101 * DAY_MS)).unwrap();
    let cut = Token { blocks: narrow.blocks[..1].to_vec(), proof: narrow.proof.clone() };
    assert_eq!(cut.verify(&issuer.public()), Err(TokenError::Proof));
    let mut without = narrower.clone();
    without.blocks.remove(1);
    assert_eq!(without.verify(&issuer.public()), Err(TokenError::Signature(1)));
    // A block of one token is of no use behind another.
    let other = issuer.issue(&claims()).unwrap();
    let moved = vec![other.blocks[0].clone(), narrow.blocks[1].clone()];
    let moved = Token { blocks: moved, proof: narrow.proof };
    assert_eq!(moved.verify(&issuer.public()), Err(TokenError::Signature(1)));
}

#[test]
fn no_flipped_bit_gives_another_token() {
    let issuer = IssuerKey::generate();
    let token = issuer.issue(&claims()).unwrap().attenuate(None, None, None).unwrap();
    token.verify(&issuer.public()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&token.to_text()[TOKEN_PREFIX.len()..]).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let text = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
        let verified = Token::from_text(&text).and_then(|token| token.verify(&issuer.public()));
        assert!(verified.is_err(), "bit {bit}: {verified:?}");
    }
}

/// A token has one text. Another text of the same token would go around a list of texts that leaked,
/// and every change of one would have to be judged by what it means.
#[test]
fn a_changed_text_is_refused_or_the_same_token() {
    let issuer = IssuerKey::generate();
    let token = issuer.issue(&claims()).unwrap().attenuate(None, None, None).unwrap();
    let text = token.to_text();
    let mut changed = Vec::new();
    for at in 0..=text.len() {
        for put in ["", "A", "_", "=", "\0", " ", "\u{85}"] {
            let (head, tail) = text.split_at(at);
            changed.push(format!("{head}{put}{tail}"));
            changed.push(format!("{head}{put}{}", tail.get(1..).unwrap_or_default()));
        }
    }
    // Fields of the message twice, in another order, and longer numbers than needed.
    let bytes = URL_SAFE_NO_PAD.decode(&text[TOKEN_PREFIX.len()..]).unwrap();
    let mut encoded = |bytes: &[u8]| {
        changed.push(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)));
    };
    let message = wire::Token::decode(&bytes[..]).unwrap();
    let of = |blocks: &[wire::TokenBlock], proof: &Bytes| {
        wire::Token { blocks: blocks.to_vec(), proof: proof.clone() }.encode_to_vec()
    };
    let (blocks, proof) = (&message.blocks, &message.proof);
    let (only_blocks, only_proof) = (of(blocks, &Bytes::new()), of(&[], proof));
    encoded(&[&only_proof[..], &only_blocks].concat());
    encoded(&[&only_proof[..], &only_blocks, &only_proof].concat());
    encoded(&[&bytes[..], &[0x80, 0x80, 0x00]].concat());
    let mut accepted = 0;
    for text in changed {
        let verified = Token::from_text(&text).and_then(|token| {
            token.verify(&issuer.public())?;
            Ok(token.to_text())
        });
        if let Ok(read) = verified {
            // White space around it is not of it.
            assert_eq!(read, text.trim(), "another text of a token");
            accepted += 1;
        }
    }
    assert!(accepted > 0, "the text itself is among them");
}

#[test]
fn a_token_is_taken_from_its_issue_to_its_expiry_with_room_for_clocks() {
    let issuer = IssuerKey::generate();
    let verified = issuer.issue(&claims()).unwrap().verify(&issuer.public()).unwrap();
    let (from, to) = (100 * DAY_MS, 130 * DAY_MS);
    for wall_ms in [from - TOKEN_SKEW_MS, from, to, to + TOKEN_SKEW_MS] {
        verified.check_time(wall_ms).unwrap();
    }
    let early = verified.check_time(from - TOKEN_SKEW_MS - 1).unwrap_err();
    assert!(early.to_string().contains("compare the clocks"), "{early}");
    let late = verified.check_time(to + 3 * DAY_MS).unwrap_err();
    assert_eq!(late.to_string(), "the token expired 3 days ago");
    let long = Claims { expires_ms: from + TOKEN_VALID_MS_MAX + 1, ..claims() };
    assert_eq!(issuer.issue(&long), Err(TokenError::TooLong));
}

#[test]
fn a_token_has_bounds() {
    let issuer = IssuerKey::generate();
    let mut token = issuer.issue(&claims()).unwrap();
    for _ in 1..TOKEN_BLOCKS_MAX {
        token = token.attenuate(None, None, None).unwrap();
    }
    token.verify(&issuer.public()).unwrap();
    assert!(token.attenuate(None, None, None).is_err());
    let many = (0..=TOKEN_NAMESPACES_MAX).map(|it| format!("team/{it}").parse().unwrap());
    let many = Claims { grant: Grant { namespaces: many.collect(), ..claims().grant }, ..claims() };
    assert!(issuer.issue(&many).is_err());
    let long = format!("{TOKEN_PREFIX}{}", "A".repeat(2 * TOKEN_BYTES_MAX));
    let named = [&long, "", "Bearer x", "cairn-token-1.", "cairn-token-1.!!", "cairn-token-2.AA"];
    for text in named {
        assert!(Token::from_text(text).is_err(), "{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, token.to_text()).unwrap();
    assert_eq!(Token::load(&path).unwrap(), token);
    assert!(IssuerKey::load(&path).unwrap_err().to_string().contains("cairn token init"));
    let endless = Token::load(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(endless, FileError::TooLong { .. }), "{endless}");
}
