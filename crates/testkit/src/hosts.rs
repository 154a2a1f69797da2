//! Hosts of a network of their own: Linux network namespaces, joined like a star. Addresses in it are real, a link can be taken down like
//! a cable, and nothing in it reaches the machine's own network.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::CutLink;

/// How long a program of the system may take to make or remove something.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// Why there is no such network here.
#[derive(Debug, thiserror::Error)]
#[error("network namespaces can't be made here (they need root and iproute2): {0}")]
pub struct NotPermitted(String);

/// A host in the middle and others round it, each on a link of its own. Gone when this is dropped.
pub struct Star {
    centre: String,
    /// Namespaces of the others.
    others: Vec<String>,
}

impl Star {
    /// Makes a star with so many hosts round its centre.
    ///
    /// # Errors
    /// [`NotPermitted`] when not even the first can be made.
    ///
    /// # Panics
    /// When the others can't.
    pub fn new(others: u8) -> Result<Self, NotPermitted> {
        static STARS: AtomicU32 = AtomicU32::new(0);
        let name = format!("fb{}-{}", std::process::id(), STARS.fetch_add(1, Ordering::Relaxed));
        let mut star = Self { centre: format!("{name}-c"), others: Vec::new() };
        ip(&["netns", "add", &star.centre])?;
        // Where one may be made, the rest is no question of permission.
        let fill = |star: &mut Self| {
            ip(&["-n", &star.centre, "link", "set", "lo", "up"])?;
            for number in 0..others {
                let other = format!("{name}-{number}");
                ip(&["netns", "add", &other])?;
                star.others.push(other);
                star.join(number)?;
            }
            Ok::<_, NotPermitted>(())
        };
        fill(&mut star).unwrap_or_else(|fault| panic!("{fault}"));
        Ok(star)
    }

    fn join(&self, number: u8) -> Result<(), NotPermitted> {
        let (centre, other) = (self.centre.as_str(), self.others[usize::from(number)].as_str());
        let (near, far) = (near(number), "centre".to_owned());
        ip(&["-n", centre, "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", other])?;
        for (host, link, last) in [(centre, &near, 1), (other, &far, 2)] {
            ip(&["-n", host, "addr", "add", &format!("{}/30", address(number, last)), "dev", link])?;
            ip(&["-n", host, "link", "set", link, "up"])?;
        }
        ip(&["-n", other, "link", "set", "lo", "up"])
    }

    /// What stands before a command so that it runs at the centre.
    #[must_use]
    pub fn at_centre(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.centre]
    }

    /// What stands before a command so that it runs at a host.
    #[must_use]
    pub fn at(&self, number: u8) -> [&str; 4] {
        ["ip", "netns", "exec", &self.others[usize::from(number)]]
    }

    /// Where the centre reaches a host.
    #[must_use]
    pub fn address(&self, number: u8) -> Ipv4Addr {
        address(number, 2)
    }

    /// Takes the link to a host down, or up again: packets are lost in both directions without a word.
    ///
    /// # Errors
    /// What the system says.
    pub fn plug(&self, number: u8, up: bool) -> Result<(), NotPermitted> {
        ip(&["-n", &self.centre, "link", "set", &near(number), if up { "up" } else { "down" }])
    }

    /// A link that can be cut and slowed, from the host's address and `port` to its loopback address and port `server`. The delay is
    /// there in kernels without one of their own.
    ///
    /// # Panics
    /// When the host's namespace can't be entered.
    pub async fn link(&self, number: u8, port: u16, server: u16) -> CutLink {
        let listen = SocketAddr::from((address(number, 2), port));
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
        let namespace = format!("/run/netns/{}", self.others[usize::from(number)]);
        let (hand, take) = oneshot::channel();
        // A thread stays in the namespace that it entered, and so do the sockets that it makes. It ends with the link.
        thread::spawn(move || {
            let namespace = File::open(&namespace).expect("the host's namespace is there");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("the namespace can be entered");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let link = CutLink::between(listen, server).await;
                let ended = link.ended();
                if hand.send(link).is_ok() {
                    ended.await;
                }
            });
        });
        take.await.expect("the thread hands its link over")
    }
}

impl Drop for Star {
    fn drop(&mut self) {
        for host in std::iter::once(&self.centre).chain(&self.others) {
            // What can't be removed is empty and harmless.
            let _ = ip(&["netns", "del", host]);
        }
    }
}

/// The centre's end of the link to a host.
fn near(number: u8) -> String {
    format!("to{number}")
}

fn address(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, number, last)
}

fn ip(args: &[&str]) -> Result<(), NotPermitted> {
    let fault = |what: String| NotPermitted(format!("ip {}: {what}", args.join(" ")));
    let mut command = Command::new("timeout");
    command.arg(COMMAND_DEADLINE.as_secs().to_string()).arg("ip").args(args).stdin(Stdio::null());
    let output = command.output().map_err(|source| fault(source.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(fault(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
