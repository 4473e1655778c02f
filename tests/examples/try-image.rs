//! Gives the machine's Docker Engine the tests' image and prints its name: `make up` suggests to run it, since there may
//! be no registry in reach.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    renga_tests::servers::docker().await?;
    println!("{}", renga_tests::servers::BUSYBOX);
    Ok(())
}
