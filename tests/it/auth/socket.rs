//! The WebSocket of a session's events: anybody may open it, the first frame says who may follow.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::{World, offers_nothing};

/// What a hello was answered with.
#[derive(Debug, PartialEq)]
enum Answer {
    Welcome(Value),
    Closed(u16, String),
}

async fn hello(world: &World, session: &str, hello: &Value) -> Answer {
    let address = format!("ws://{}/v1/sessions/{session}/events", world.relay.daemon.http_addr());
    let said = async {
        let (mut socket, _) = connect_async(&address).await.expect("the socket opens for anybody");
        let frame = json!({ "t": "hello", "d": hello }).to_string();
        socket.send(Message::text(frame)).await.expect("the relay reads");
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    assert_eq!(frame["t"], "welcome", "{frame}");
                    return Answer::Welcome(frame["d"].clone());
                }
                Some(Ok(Message::Close(Some(close)))) => {
                    return Answer::Closed(close.code.into(), close.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("neither welcome nor close: {other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(20), said).await.expect("an answer in time")
}

fn code(answer: &Answer) -> Option<u16> {
    match answer {
        Answer::Closed(code, _) => Some(*code),
        Answer::Welcome(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_for_whoever_may_follow_the_session() {
    let world = World::new("socket").await;
    let session = world.session("ann").await;
    for role in ["speak", "listen", "moderate", "admin"] {
        let token = world.issuer.token("ann", json!({ "role": role }));
        match hello(&world, &session, &json!({ "token": token })).await {
            Answer::Welcome(welcome) => assert_eq!(welcome["role"], role, "{welcome}"),
            closed @ Answer::Closed(..) => panic!("{role}: {closed:?}"),
        }
    }
    let forgeries = world.issuer.forgeries("ann", &json!({ "role": "admin" }));
    for (kind, token) in forgeries
        .iter()
        .map(|(kind, token)| (*kind, token.as_str()))
        .chain([("no JWT", "x"), ("none at all", "")])
    {
        let answer = hello(&world, &session, &json!({ "token": token })).await;
        assert_eq!(code(&answer), Some(4004), "{kind}: {answer:?}");
        assert!(offers_nothing(&format!("{answer:?}"), token), "{kind}: {answer:?}");
    }
    assert_eq!(code(&hello(&world, &session, &json!({})).await), Some(4004), "no token");
    assert_eq!(
        code(&hello(&world, &session, &json!({ "resume": "made up" })).await),
        Some(4004),
        "no ticket of ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sessions_events_are_not_there() {
    let world = World::new("socket-idor").await;
    let (session, other) = (world.session("ann").await, world.session("bob").await);
    let own = world.issuer.token("ann", json!({ "role": "listen", "session": session.clone() }));
    let welcome = match hello(&world, &session, &json!({ "token": own })).await {
        Answer::Welcome(welcome) => welcome,
        closed @ Answer::Closed(..) => panic!("{closed:?}"),
    };
    // Known or not, another session is told of alike; and a ticket of one opens no other.
    let there = hello(&world, &other, &json!({ "token": own })).await;
    assert_eq!(code(&there), Some(4006), "{there:?}");
    assert_eq!(there, hello(&world, "golden-eagle-999", &json!({ "token": own })).await);
    let ticket = json!({ "resume": welcome["resume"] });
    assert_eq!(code(&hello(&world, &other, &ticket).await), Some(4004));
    assert_eq!(
        code(&hello(&world, &other, &json!({})).await),
        code(&hello(&world, "golden-eagle-999", &json!({})).await),
    );
}
