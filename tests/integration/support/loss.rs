use super::proxy::{Fate, Proxy};

/// What becomes of the k-th request of a run, and perhaps of all that follow.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    is_reply: bool,
    is_for_good: bool,
}

impl Loss {
    /// All that there are.
    pub const EACH: [Loss; 4] = [
        Loss { is_reply: false, is_for_good: false },
        Loss { is_reply: false, is_for_good: true },
        Loss { is_reply: true, is_for_good: false },
        Loss { is_reply: true, is_for_good: true },
    ];

    /// From now on, until the proxy is healed; it says how many requests it has seen since.
    pub fn strike(self, proxy: &Proxy, k: usize) {
        let mut count = 0;
        proxy.take_seen();
        proxy.script(move |_| {
            count += 1;
            match self {
                Loss { is_for_good: true, .. } if count > k => Fate::LoseRequest,
                Loss { is_reply: true, .. } if count == k => Fate::LoseReply,
                Loss { is_reply: false, .. } if count == k => Fate::LoseRequest,
                _ => Fate::Pass,
            }
        });
    }
}
