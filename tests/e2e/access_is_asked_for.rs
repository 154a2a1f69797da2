//! `forebay access` against a cloud in a process of its own: by token and by password, for the asker, the operator and the auditor.

use std::path::Path;
use std::process::{Command, Stdio};

use chassis::Clock;
use serde_json::json;

use crate::town::{FOREBAY, Role};

#[path = "../../cloud/tests/town/issuer.rs"]
mod issuer;

const GRANTS: &str = "[[grant]]\nusers = [\"oscar\"]\nactions = [\"query\", \"publish\"]\ntopics = [\"access\"]\n\n\
                      [[grant]]\nusers = [\"vera\"]\nactions = [\"query\"]\ntopics = [\"access\"]\n";

/// A time so many seconds from now.
fn later(seconds: i64) -> String {
    cloud::moment::format(chassis::SystemClock.now() + seconds * 1_000_000_000)
}

/// Runs `forebay {args}` to its end: exit code, stdout, stderr.
fn forebay(cloud: &str, login: &[&str], args: &[&str]) -> (i32, String, String) {
    let output = Command::new(FOREBAY).args(args).args(login).args(["--cloud", cloud]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_the_shell_asks_approves_revokes_and_checks_the_trail() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let issuer = issuer::Issuer::new();
    let users = place("users");
    let mut logins = Vec::new();
    for user in ["oscar", "vera", "dora"] {
        broker::users::set_password(&users, user, user.as_bytes()).unwrap();
        logins.push([user.to_owned(), write(&place(user), user)]);
    }
    let [oscar, vera, dora] = [0, 1, 2].map(|n| ["--user", &logins[n][0], "--password-file", &logins[n][1]]);
    let exp = chassis::SystemClock.now() / 1_000_000_000 + 600;
    let claims = json!({"iss": "https://id.city", "aud": "forebay", "sub": "ana", "exp": exp, "name": "Ana"});
    let token = write(&place("token"), &issuer.token(&claims));
    let ana = ["--token-file", &token];
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\ndata = {:?}\n\n[access.files]\nusers = {users:?}\ngrants = {:?}\n\n\
         [authority]\ndirectory = {:?}\n\n[authority.tokens]\nname = \"city\"\nissuer = \"https://id.city\"\naudience = \"forebay\"\n\
         keys = {:?}\n\n[[requests.rule]]\nname = \"planners\"\nauthority = \"directory\"\nclaims = {{ roles = \"planner\" }}\n\
         actions = [\"query\"]\nareas = [\"cityA\"]\nlasting = \"1h\"\n",
        place("data"),
        write(&place("grants.toml"), GRANTS),
        write(&place("directory.toml"), "[user.dora]\nroles = [\"planner\"]\n"),
        write(&place("keys.json"), &issuer.keys().to_string()),
    );
    let role = Role::start(&["cloud", "--config", &write(&place("cloud.toml"), &config)]).await;
    let cloud = format!("http://{}", role.place("http"));
    let run = |login: &[&str], args: &[&str]| forebay(&cloud, login, args);
    let until = later(3_600);
    let sees = |login: &[&str]| {
        let (code, _, said) = run(login, &["query", "cityA/meter-1/power"]);
        assert!(code == 0 || said.contains("403"), "{said}");
        code == 0
    };

    let asking = ["access", "request", "--area", "cityA", "--action", "query", "--until", &until, "--purpose", "a study"];
    assert!(!sees(&ana));
    let (code, said, err) = run(&ana, &asking);
    assert_eq!((code, said.as_str()), (0, "request 1 of city:ana is waiting: query cityA\n"), "{err}");
    assert!(!sees(&ana));
    let (code, said, err) = run(&dora, &asking);
    assert!(code == 0 && said.starts_with("request 2 of dora is approved: query cityA until "), "{said}{err}");
    assert!(sees(&dora));
    let (_, said, _) = run(&ana, &["access", "list"]);
    assert_eq!(said.lines().count(), 2, "his own, below a header: {said}");
    let (_, said, _) = run(&oscar, &["access", "list", "--state", "waiting", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["id"], 1);

    for (login, args, part) in [
        (&ana[..], ["access", "approve", "1", "--reason", "mine"], "403"),
        (&vera, ["access", "approve", "1", "--reason", "read only"], "404"),
        (&dora, ["access", "reject", "1", "--reason", "envy"], "404"),
        (&oscar, ["access", "approve", "7", "--reason", "none"], "404"),
        (&oscar, ["access", "revoke", "1", "--reason", "early"], "409"),
        (&dora, ["access", "log", "--log", "warn", "--json"], "403"),
    ] {
        let (code, _, said) = run(login, &args);
        assert!(code == 2 && said.contains(part), "{args:?}: {code} {said}");
    }
    let wider = ["access", "approve", "1", "--reason", "r", "--area", "cityB"];
    let (code, _, said) = run(&oscar, &wider);
    assert!(code == 2 && said.contains("more than was asked for"), "{said}");
    let (code, said, err) = run(&oscar, &["access", "approve", "1", "--reason", "a good study", "--stream", "power"]);
    assert!(code == 0 && said.contains("request 1 of city:ana is approved: query cityA power until "), "{said}{err}");
    assert!(sees(&ana));
    let (code, said, _) = run(&oscar, &["access", "revoke", "1", "--reason", "it is over"]);
    assert_eq!((code, said.as_str()), (0, "request 1 of city:ana is revoked by oscar: it is over\n"));
    assert!(!sees(&ana) && sees(&dora));

    let (code, said, err) = run(&vera, &["access", "log"]);
    assert_eq!((code, said.lines().count()), (0, 5), "{said}{err}");
    assert!(said.lines().last().unwrap().ends_with("oscar  revoked request 1: it is over"), "{said}");
    assert!(err.contains("5 entries hang together"), "{err}");
    // A token over MQTT is a password, and the tool says so.
    let mut tail = Command::new(FOREBAY);
    let tail = tail.args(["tail", "cityA/#", "--token-file", &token, "--address", "127.0.0.1:9"]).stdin(Stdio::null());
    let said = String::from_utf8(tail.output().unwrap().stderr).unwrap();
    assert!(said.contains("--password-file"), "{said}");
}
