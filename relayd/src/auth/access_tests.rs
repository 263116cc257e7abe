use std::sync::Arc;
use std::time::Instant;

use super::*;

fn subject(issuer: &str, subject: &str) -> Subject {
    Subject { issuer: issuer.into(), subject: subject.into() }
}

/// A session `demo` of `ann` at `acme`.
fn session(anonymous_listeners: bool) -> SessionAccess {
    SessionAccess { id: SessionId::demo(), owner: Some(subject("acme", "ann")), anonymous_listeners }
}

fn token(role: Role, issuer: &str, name: &str, scope: Scope) -> Grant {
    Grant {
        subject: subject(issuer, name),
        token_id: None,
        role,
        scope,
        languages: None,
        takeover: false,
        expires: Instant::now(),
    }
}

fn caller(grant: Grant) -> Caller {
    Caller::Token(Arc::new(grant))
}

fn only(id: &str) -> Scope {
    Scope::Session(id.into())
}

/// One letter per answer: yes, 401, 404, 403.
fn letter(result: Result<(), Denied>) -> char {
    match result {
        Ok(()) => 'y',
        Err(Denied::Unauthorized) => '1',
        Err(Denied::NotFound) => '4',
        Err(Denied::Forbidden(why)) => {
            assert!(!why.is_empty());
            '3'
        }
    }
}

/// The answers to create, read, events, listen, manage, publish.
fn row(caller: &Caller, session: Option<&SessionAccess>) -> String {
    let actions = [
        Action::Create,
        Action::Read,
        Action::Events,
        Action::Listen(Some("en")),
        Action::Manage,
        Action::Publish(Some("en")),
    ];
    actions.into_iter().map(|action| letter(decide(caller, session, action))).collect()
}

const ROLES: [Role; 4] = [Role::Speak, Role::Listen, Role::Moderate, Role::Admin];

#[test]
fn an_open_relay_allows_everything() {
    for session in [None, Some(session(false)), Some(session(true))] {
        assert_eq!(row(&Caller::Open, session.as_ref()), "yyyyyy");
    }
}

#[test]
fn nobody_in_particular_listens_where_anybody_may() {
    assert_eq!(row(&Caller::Anonymous, None), "111111");
    assert_eq!(row(&Caller::Anonymous, Some(&session(false))), "111111");
    assert_eq!(row(&Caller::Anonymous, Some(&session(true))), "1yyy11");
}

#[test]
fn each_role_does_what_it_is_for_in_a_session_that_its_token_covers() {
    let rows = [
        (Role::Speak, "yyyyyy"),
        (Role::Listen, "3yyy33"),
        (Role::Moderate, "3yyyy3"),
        (Role::Admin, "yyyyyy"),
    ];
    for (role, expected) in rows {
        for scope in [Scope::Own, Scope::Issuer] {
            let caller = caller(token(role, "acme", "ann", scope.clone()));
            for anonymous in [false, true] {
                assert_eq!(row(&caller, Some(&session(anonymous))), expected, "{role} {scope:?}");
            }
        }
    }
}

#[test]
fn a_token_for_one_session_creates_no_other() {
    let rows = [
        (Role::Speak, "3yyyyy"),
        (Role::Listen, "3yyy33"),
        (Role::Moderate, "3yyyy3"),
        (Role::Admin, "3yyyyy"),
    ];
    for (role, expected) in rows {
        // Another issuer's subject: an id covers whoever created it.
        let caller = caller(token(role, "other", "bob", only("demo")));
        assert_eq!(row(&caller, Some(&session(false))), expected, "{role}");
    }
}

#[test]
fn a_session_that_is_not_covered_answers_as_one_that_does_not_exist() {
    let strangers = [
        ("acme", "bob", Scope::Own),
        ("other", "ann", Scope::Own),
        ("other", "ann", Scope::Issuer),
        ("acme", "ann", only("golden-eagle-427")),
        ("acme", "ann", only("dem")),
        ("acme", "ann", only("DEMO")),
    ];
    for role in ROLES {
        for (issuer, name, scope) in strangers.clone() {
            let stranger = caller(token(role, issuer, name, scope));
            let (unknown, theirs) = (row(&stranger, None), row(&stranger, Some(&session(false))));
            assert_eq!(unknown, theirs, "{role} {stranger}");
            assert_eq!(&theirs[1..], "44444", "{role} {stranger}");
            assert_eq!(&row(&stranger, Some(&session(true)))[1..], "yyy44", "{role} {stranger}");
        }
    }
}

#[test]
fn a_session_without_owner_is_covered_by_its_id_alone() {
    let demo = SessionAccess { owner: None, ..session(false) };
    for scope in [Scope::Own, Scope::Issuer] {
        assert_eq!(&row(&caller(token(Role::Admin, "acme", "ann", scope)), Some(&demo))[1..], "44444");
    }
    assert_eq!(&row(&caller(token(Role::Admin, "acme", "ann", only("demo"))), Some(&demo))[1..], "yyyyy");
}

#[test]
fn languages_limit_publishing_and_listening_and_nothing_else() {
    let mut grant = token(Role::Speak, "acme", "ann", Scope::Own);
    grant.languages = Some(vec!["pt-BR".parse().unwrap()]);
    let caller = caller(grant);
    let (closed, open) = (session(false), session(true));
    let forbidden = |action| matches!(decide(&caller, Some(&closed), action), Err(Denied::Forbidden(_)));
    for tag in [Some("en"), Some("pt"), Some("pt-BR-x"), Some(""), None] {
        assert!(forbidden(Action::Publish(tag)) && forbidden(Action::Listen(tag)), "{tag:?}");
        assert!(decide(&caller, Some(&open), Action::Publish(tag)).is_err(), "{tag:?}");
        assert!(decide(&caller, Some(&open), Action::Listen(tag)).is_ok(), "{tag:?}");
    }
    for tag in ["pt-BR", "pt-br", "PT-br"] {
        assert_eq!(decide(&caller, Some(&closed), Action::Publish(Some(tag))), Ok(()));
        assert_eq!(decide(&caller, Some(&closed), Action::Listen(Some(tag))), Ok(()));
    }
    for action in [Action::Create, Action::Read, Action::Manage, Action::Events] {
        assert_eq!(decide(&caller, Some(&closed), action), Ok(()));
    }
}

#[test]
fn staff_are_those_who_run_the_session() {
    let access = session(true);
    assert!(Caller::Open.is_staff(&access));
    assert!(!Caller::Anonymous.is_staff(&access));
    for role in ROLES {
        let own = caller(token(role, "acme", "ann", Scope::Own));
        let foreign = caller(token(role, "acme", "bob", Scope::Own));
        assert_eq!(own.is_staff(&access), role != Role::Listen);
        assert!(!foreign.is_staff(&access));
    }
}
