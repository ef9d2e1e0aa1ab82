//! DHCP for IPv4 (RFC 2131), the client's part.
//!
//! A state machine of our own over smoltcp's wire formats. smoltcp's socket keeps three name
//! servers, supports neither option overload (52) nor split options (RFC 3396), always accepts
//! the first offer, and backs off so far that a server which starts late is not heard for half
//! a minute. A boot needs the opposite. Shared with smoltcp are the parts that are easy to get
//! wrong: Ethernet, IPv4, UDP and BOOTP headers and their checksums.
//!
//! Not done: renewing (the live system's network manager does that), DECLINE after an address
//! conflict, DHCPINFORM, IPv6.

pub mod client;
pub mod lease;
pub mod message;
pub mod options;
