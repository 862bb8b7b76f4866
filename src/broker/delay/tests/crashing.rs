//! One short history with everything in it, cut off at every single step of the disk.

use super::{model::Game, *};

async fn play(cut_after: u64) -> bool {
    let mut game = Game::new(cut_after, None);
    game.world().machine.disk.fail_after(cut_after);
    for step in 0..9 {
        match step {
            0 => game.send(ms(1000)).await,
            1 => game.send(Duration::from_secs(30_000)).await,
            2 => game.send(Duration::from_secs(30_000)).await,
            3 => game.pass(ms(1000)).await,
            4 => game.recall().await,
            5 => game.snapshot(),
            6 => game.pass(Duration::from_secs(2000)).await,
            7 => game.carry().await,
            _ => game.reschedule(),
        }
        game.crash_if_dark();
    }
    let cut = game.counts.contains_key("dark");
    game.finish().await;
    cut
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_and_repeats_nothing() {
    // Steps of the disk beyond what such a history takes; how many it takes depends on what shares a sync.
    let mut cut = 0;
    for cut_after in 0..60 {
        cut += u32::from(play(cut_after).await);
    }
    assert!((20..60).contains(&cut), "{cut} of 60 were cut off");
}
