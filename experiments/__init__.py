"The paper's figures and tables, reproduced on top of fastmix; see CLAIMS.md"
