//! Attacks over sockets.

use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::attack::{Attack, address, given};

const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    let refused = [libc::EPERM, libc::EAFNOSUPPORT, libc::EACCES];
    let socket = |attack: &mut Attack, what: &str, arguments: [i32; 3]| {
        let [family, kind, protocol] = arguments.map(i64::from);
        attack.call(what, libc::SYS_socket, [family, kind, protocol, 0, 0, 0], &refused);
    };
    match action {
        "H3" => {
            socket(attack, "netfilter", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER]);
            socket(attack, "audit", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT]);
        }
        "H17" | "H30" => host_sockets(attack),
        "H18" | "H42" => host_services(attack),
        "H19" => socket(attack, "vsock", [libc::AF_VSOCK, libc::SOCK_STREAM, 0]),
        "H20" => typed_into_terminals(attack),
        "H21" => {
            socket(attack, "packets", [libc::AF_PACKET, libc::SOCK_RAW, 0]);
            socket(attack, "raw ICMP", [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP]);
            socket(attack, "the kernel's cryptography", [libc::AF_ALG, libc::SOCK_SEQPACKET, 0]);
        }
        _ => return false,
    }
    true
}

fn host_sockets(attack: &mut Attack) {
    let name = given("CANARY_SOCKET");
    let abstracted = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    attack.fails("an abstract socket of the host", UnixStream::connect_addr(&abstracted));
    attack.fails("a socket of the host by its path", UnixStream::connect(given("CANARY_SOCKET_PATH")));
}

fn host_services(attack: &mut Attack) {
    let port = given("CANARY_PORT");
    for target in [format!("127.0.0.1:{port}"), "169.254.169.254:80".into(), "1.1.1.1:53".into()] {
        let target: SocketAddr = target.parse().expect("an address");
        attack.fails_with(
            &target.to_string(),
            TcpStream::connect_timeout(&target, PATIENCE),
            &[libc::ECONNREFUSED, libc::ENETUNREACH],
        );
    }
    for name in ["/var/run/docker.sock", "/run/containerd/containerd.sock"] {
        attack.fails(name, UnixStream::connect(name));
    }
    attack.fails("a key of the host", std::fs::read(given("CANARY_FILE")));
}

fn typed_into_terminals(attack: &mut Attack) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the addresses are of locals; null pointers mean that nothing is asked.
    let made = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
    };
    attack.never("no terminal can be made", made != 0);
    let byte = b'x';
    for trick in [libc::TIOCSTI as i64, libc::TIOCSTI as i64 | (1 << 32), libc::TIOCLINUX as i64] {
        attack.call("type", libc::SYS_ioctl, [theirs.into(), trick, address(&byte), 0, 0, 0], &[libc::EPERM]);
    }
}
