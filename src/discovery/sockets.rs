//! The sockets of multicast DNS: one for each link and family, and what the kernel says of links.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::dns::MESSAGE_BYTES_MAX;
use super::heard::Said;
use super::links::{self, Link, Place, RTM_GETADDR, RTM_GETLINK};
use super::plan::Family;

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 0xFB);
const PORT: u16 = 5353;
/// From further away than this link nothing comes that says so (RFC 6762, section 11).
const HOPS: u32 = 255;
/// What the kernel holds for one socket until it is read, bytes: some hundred messages.
const QUEUE_BYTES: usize = 128 * 1024;
/// What the kernel says at a time, bytes (netlink(7)).
const PART_BYTES: usize = 32 * 1024;
/// Most parts of one answer of the kernel: thousands of interfaces.
const PARTS_MAX: usize = 256;
/// Links come and go, and their addresses (rtnetlink(7): `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`,
/// `RTMGRP_IPV6_IFADDR`).
const CHANGES: u32 = 0x1 | 0x10 | 0x100;

/// Hears and speaks on one link by one family.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) link: u32,
    pub(super) family: Family,
    /// The address that it speaks from, where that is chosen.
    from: Option<Ipv4Addr>,
    pub(super) socket: UdpSocket,
}

impl Line {
    /// The group alone is bound: what is sent to this host goes to whoever else uses the port here,
    /// such as avahi.
    pub(super) fn open(place: &Place, family: Family) -> Result<Self, Error> {
        let (domain, group) = match family {
            Family::V4 => (Domain::IPV4, SocketAddr::from((GROUP_V4, PORT))),
            Family::V6 => (Domain::IPV6, SocketAddrV6::new(GROUP_V6, PORT, 0, place.link).into()),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
        match family {
            Family::V4 => {
                let from = place.v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
                socket.bind(&group.into())?;
                socket.set_multicast_all_v4(false)?;
                socket
                    .join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(place.link))?;
                // By its number: two links may have one address.
                set_ip_multicast_if_with_ifindex(
                    &socket,
                    &Ipv4Addr::UNSPECIFIED,
                    &from,
                    place.link,
                )?;
                socket.set_multicast_ttl_v4(HOPS)?;
                socket.set_multicast_loop_v4(true)?;
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                socket.bind(&group.into())?;
                socket.join_multicast_v6(&GROUP_V6, place.link)?;
                socket.set_multicast_if_v6(place.link)?;
                socket.set_multicast_hops_v6(HOPS)?;
                socket.set_multicast_loop_v6(true)?;
            }
        }
        let from = place.v4.filter(|_| family == Family::V4);
        Ok(Self { link: place.link, family, from, socket: socket.into() })
    }

    /// Whether it is as it would be opened for that now.
    pub(super) fn is_for(&self, place: &Place, family: Family) -> bool {
        self.link == place.link
            && self.family == family
            && self.from == place.v4.filter(|_| family == Family::V4)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let group: SocketAddr = match self.family {
            Family::V4 => (GROUP_V4, PORT).into(),
            Family::V6 => SocketAddrV6::new(GROUP_V6, PORT, 0, self.link).into(),
        };
        match self.socket.send_to(bytes, group) {
            Ok(_) => Ok(()),
            // Full for the moment: it is said again.
            Err(why) if why.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// The next message of those that wait, and where it came from; nothing where none does.
    pub(super) fn read<'a>(&self, room: &'a mut Room) -> Option<Said<'a>> {
        let (length, from) = self.socket.recv_from(room.0.as_mut()).ok()?;
        Some(Said { link: self.link, from: from.ip(), bytes: room.0.get(..length)? })
    }
}

/// Place for one message, and a byte more: what is longer is told from what fits.
pub(super) struct Room(Box<[u8]>);

impl Room {
    pub(super) fn new() -> Self {
        Self(vec![0; MESSAGE_BYTES_MAX + 1].into())
    }
}

/// Tells when links or addresses come or go.
pub(super) fn watch_links() -> Result<OwnedFd, Error> {
    let socket = open_netlink()?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, CHANGES))?;
    Ok(socket)
}

/// Forgets what was told: it is looked anew.
pub(super) fn drain(watcher: &OwnedFd) {
    let mut bytes = [0; 4096];
    for _ in 0..PARTS_MAX {
        match rustix::net::recv(watcher, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((length, _)) if length > 0 => {}
            // More was told than it holds: that is news, too.
            Err(Errno::NOBUFS) => {}
            _ => return,
        }
    }
}

fn open_netlink() -> Result<OwnedFd, Error> {
    // Protocol 0 is that of routes and links (netlink(7)).
    let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
    Ok(rustix::net::socket_with(family, SocketType::RAW, flags, None)?)
}

/// All links and their addresses.
pub(super) fn list_links() -> Result<BTreeMap<u32, Link>, Error> {
    let mut all = BTreeMap::new();
    let mut bytes = vec![0; PART_BYTES];
    for kind in [RTM_GETLINK, RTM_GETADDR] {
        let socket = open_netlink()?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &links::ask(kind), SendFlags::empty(), &kernel)?;
        let mut is_all = false;
        for _ in 0..PARTS_MAX {
            // The kernel has the answer ready when it was asked.
            let (length, _) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
            let said = bytes.get(..length).unwrap_or_default();
            is_all = links::note(said, &mut all).ok_or_else(|| Error::other("it refused"))?;
            if is_all {
                break;
            }
        }
        if !is_all {
            return Err(Error::other("it told of too many interfaces"));
        }
    }
    Ok(all)
}
