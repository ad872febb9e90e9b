//! Just enough rtnetlink to build a testbed: veth pairs, addresses, neighbours, links up.
//!
//! [`Request`] is a pure message builder; [`Route`] sends one request at a time in the network
//! namespace it was opened in and waits for the kernel's answer. No dumps, no events.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use socket2::{Domain, Protocol, Socket, Type};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NESTED: u16 = 0x8000;

const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;

pub type Mac = [u8; 6];

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Mac,
    /// Where this end shall live; `None` = the namespace of the socket.
    pub net_ns: Option<RawFd>,
}

/// A netlink message under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A pair of virtual Ethernet interfaces.
    pub fn veth(here: VethEnd<'_>, peer: VethEnd<'_>) -> Self {
        let mut request = Self::new(RTM_NEWLINK, NLM_F_CREATE_EXCL);
        request.interface_header(0, 0);
        request.veth_attributes(here);
        request.nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, b"veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |end| {
                    end.interface_header(0, 0);
                    end.veth_attributes(peer);
                });
            });
        });
        request
    }

    /// An interface without parameters, such as the kind `ifb`.
    pub fn plain_link(kind: &str, name: &str) -> Self {
        let mut request = Self::new(RTM_NEWLINK, NLM_F_CREATE_EXCL);
        request.interface_header(0, 0);
        request.attribute(IFLA_IFNAME, &terminated(name));
        request.attribute(IFLA_TXQLEN, &QUEUE_LENGTH.to_ne_bytes());
        request.nested(IFLA_LINKINFO, |info| info.attribute(IFLA_INFO_KIND, kind.as_bytes()));
        request
    }

    pub fn link_up(interface: u32) -> Self {
        let mut request = Self::new(RTM_NEWLINK, 0);
        request.interface_header(interface, IFF_UP);
        request
    }

    /// Gives an interface an address; the route to its network comes with it.
    pub fn address(interface: u32, address: Ipv4Addr, prefix: u8) -> Self {
        let mut request = Self::new(RTM_NEWADDR, NLM_F_CREATE_EXCL);
        request.bytes.extend([AF_INET, prefix, 0, 0]);
        request.bytes.extend(interface.to_ne_bytes());
        request.attribute(IFA_LOCAL, &address.octets());
        request.attribute(IFA_ADDRESS, &address.octets());
        request
    }

    /// A neighbour that is never asked for.
    pub fn neighbour(interface: u32, address: Ipv4Addr, mac: Mac) -> Self {
        let mut request = Self::new(RTM_NEWNEIGH, NLM_F_CREATE_EXCL);
        request.bytes.extend([AF_INET, 0, 0, 0]);
        request.bytes.extend(interface.to_ne_bytes());
        request.bytes.extend(NUD_PERMANENT.to_ne_bytes());
        request.bytes.extend([0, 0]);
        request.attribute(NDA_DST, &address.octets());
        request.attribute(NDA_LLADDR, &mac);
        request
    }

    /// The finished message.
    pub fn encode(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message of some hundred bytes");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        Self { bytes }
    }

    /// `struct ifinfomsg`.
    fn interface_header(&mut self, interface: u32, flags: u32) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(interface.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
    }

    fn veth_attributes(&mut self, end: VethEnd<'_>) {
        self.attribute(IFLA_IFNAME, &terminated(end.name));
        self.attribute(IFLA_ADDRESS, &end.mac);
        self.attribute(IFLA_MTU, &MTU.to_ne_bytes());
        self.attribute(IFLA_TXQLEN, &QUEUE_LENGTH.to_ne_bytes());
        if let Some(ns) = end.net_ns {
            self.attribute(IFLA_NET_NS_FD, &ns.to_ne_bytes());
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("an attribute of some hundred bytes");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("some hundred bytes");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// What Ethernet and nearly every WAN line carry.
const MTU: u32 = 1_500;
/// Longer than any burst of the lab, so that the veth itself never drops.
const QUEUE_LENGTH: u32 = 4_000;

/// A routing socket in the network namespace where it was opened.
pub struct Route {
    socket: Socket,
}

impl Route {
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        Ok(Self { socket })
    }

    /// Sends a request and waits for the kernel's yes or no.
    pub fn ask(&mut self, request: Request) -> io::Result<()> {
        self.socket.write_all(&request.encode())?;
        let mut answer = [0; 4_096];
        let length = self.socket.read(&mut answer)?;
        decode_ack(&answer[..length])
    }
}

fn decode_ack(answer: &[u8]) -> io::Result<()> {
    let (Some(kind), Some(code)) = (answer.get(4..6), answer.get(16..20)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "short netlink answer"));
    };
    let kind = u16::from_ne_bytes(kind.try_into().expect("two bytes"));
    let code = i32::from_ne_bytes(code.try_into().expect("four bytes"));
    match (kind, code) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, code) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected netlink answer")),
    }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_request_byte_by_byte() {
        let message = Request::address(7, Ipv4Addr::new(10, 9, 0, 2), 24).encode();
        let mut expected = Vec::new();
        expected.extend(40u32.to_ne_bytes());
        expected.extend(RTM_NEWADDR.to_ne_bytes());
        expected.extend(0x605u16.to_ne_bytes());
        expected.extend([0; 8]);
        expected.extend([2, 24, 0, 0]);
        expected.extend(7u32.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            expected.extend(8u16.to_ne_bytes());
            expected.extend(kind.to_ne_bytes());
            expected.extend([10, 9, 0, 2]);
        }
        assert_eq!(message, expected);
    }

    #[test]
    fn attributes_are_padded_and_nests_count_their_content() {
        let mut request = Request::new(RTM_NEWLINK, 0);
        request.nested(IFLA_LINKINFO, |info| info.attribute(IFLA_INFO_KIND, b"ifb"));
        let message = request.encode();
        assert_eq!(message.len(), 16 + 4 + 8);
        assert_eq!(message[16..18], 12u16.to_ne_bytes());
        assert_eq!(message[18..20], (IFLA_LINKINFO | NESTED).to_ne_bytes());
        assert_eq!(message[20..22], 7u16.to_ne_bytes());
        assert_eq!(&message[24..28], b"ifb\0");
    }

    #[test]
    fn the_kernels_refusal_becomes_an_error() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(decode_ack(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(decode_ack(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(decode_ack(&answer[..10]).is_err());
    }
}
