// SPDX-License-Identifier: Apache-2.0
// A plugin of clang-tidy 14 that keeps its checks out of system headers. They would walk through
// all of libtorch for every file, only to drop what they find there: 18 seconds a file instead
// of 4.
#include <vector>

#include <clang-tidy/ClangTidyCheck.h>
#include <clang-tidy/ClangTidyModule.h>
#include <clang-tidy/ClangTidyModuleRegistry.h>
#include <clang/AST/ASTContext.h>
#include <clang/ASTMatchers/ASTMatchFinder.h>
#include <clang/Basic/SourceManager.h>

namespace baton::lint {

/// Reports nothing. It is matched on the translation unit, which every walk meets first, and
/// narrows the walk to the declarations of this project.
class ScopeCheck : public clang::tidy::ClangTidyCheck {
 public:
  using ClangTidyCheck::ClangTidyCheck;

  void registerMatchers(clang::ast_matchers::MatchFinder* finder) override {
    finder->addMatcher(clang::ast_matchers::translationUnitDecl().bind("unit"), this);
  }

  void check(const clang::ast_matchers::MatchFinder::MatchResult& result) override {
    std::vector<clang::Decl*> scope;
    // Without loading what comes from the precompiled header, which holds system headers only.
    for (clang::Decl* declaration : result.Context->getTranslationUnitDecl()->noload_decls()) {
      if (!result.SourceManager->isInSystemHeader(declaration->getLocation())) {
        scope.push_back(declaration);
      }
    }
    result.Context->setTraversalScope(scope);
  }
};

class ScopeModule : public clang::tidy::ClangTidyModule {
 public:
  void addCheckFactories(clang::tidy::ClangTidyCheckFactories& factories) override {
    factories.registerCheck<ScopeCheck>("baton-scope");
  }
};

const clang::tidy::ClangTidyModuleRegistry::Add<ScopeModule> kRegistered("baton", "scope of lint");

} // namespace baton::lint
